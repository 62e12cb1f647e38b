"""A short run of the fuzz campaign, without sanitizers; `tests/codec/fuzz.py` is the whole one."""

import numpy as np
import pytest

from codec.fuzz import SHAPES, SPARE_BYTES, Victim, attack, victims
from codec.hostile import damaged, forged
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.packet import read_packet
from cutlayer.codec.presets import PRESETS
from cutlayer.errors import PacketError

VICTIMS = list(victims(load_kernels(), SHAPES[1:2]))


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.name)
def test_hostile_packets_are_refused_or_decode_to_what_was_asked(victim: Victim) -> None:
    report = attack(victim, 40, np.random.default_rng(0), note=None)
    assert not report.hole
    assert report.refused > report.packets // 2
    assert report.excess_bytes <= SPARE_BYTES


def test_every_preset_is_a_victim() -> None:
    assert {victim.name.split()[0] for victim in VICTIMS} == set(PRESETS)


def test_a_stream_with_a_basis_has_a_packet_that_ships_it() -> None:
    for victim in VICTIMS:
        if victim.name == "best up":
            assert any("basis" in read_packet(packet).sections for packet, _ in victim.packets)


def test_some_forgeries_reach_the_sections() -> None:
    """Else the campaign would test nothing but the checksum."""
    rng = np.random.default_rng(0)
    packet = VICTIMS[0].packets[0][0]
    readable = 0
    for _ in range(200):
        try:
            read_packet(forged(packet, packet, rng))
            readable += 1
        except PacketError:
            continue
    assert readable > 50


def test_damage_leaves_the_checksum_as_it_was() -> None:
    rng = np.random.default_rng(0)
    packet = VICTIMS[0].packets[0][0]
    assert any(damaged(packet, packet, rng)[-4:] == packet[-4:] for _ in range(20))
