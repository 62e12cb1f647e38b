"""Who may connect: counts and rates, in virtual time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.net.wire.link import Admission, ConnectionLimits, network_of

LIMITS = ConnectionLimits(
    connections=8, unproven=6, unproven_by_address=3, arrivals_burst=5, arrivals_per_s=1.0
)


def test_a_flood_from_one_address_leaves_room_for_others() -> None:
    admission = Admission(LIMITS)
    refusals = [admission.arrive("192.0.2.1", 0.0) for _ in range(10)]
    assert refusals[:3] == [None] * 3
    assert refusals[3] == "3 of its connections are unauthenticated"
    assert refusals[9] == "more than 5 connections in a row from one address"
    assert admission.arrive("192.0.2.2", 0.0) is None


def test_those_that_prove_themselves_make_room() -> None:
    admission = Admission(LIMITS)
    for _ in range(5):
        assert admission.arrive("192.0.2.1", 0.0) is None
        admission.prove("192.0.2.1")
    assert "in a row" in str(admission.arrive("192.0.2.1", 0.5))
    assert admission.arrive("192.0.2.1", 1.0) is None


def test_many_addresses_together_are_limited_too() -> None:
    admission = Admission(LIMITS)
    refusals = [admission.arrive(f"192.0.2.{number}", 0.0) for number in range(8)]
    assert refusals[:6] == [None] * 6
    assert refusals[6] == "6 unauthenticated connections already"


def test_devices_are_limited_in_all() -> None:
    admission = Admission(LIMITS)
    for number in range(8):
        assert admission.arrive(f"192.0.2.{number}", 0.0) is None
        admission.prove(f"192.0.2.{number}")
    assert admission.arrive("192.0.2.9", 0.0) == "8 connections already"
    admission.leave("192.0.2.0", proven=True)
    assert admission.arrive("192.0.2.9", 0.0) is None


@pytest.mark.parametrize(("devices", "strangers"), [(5, 2), (0, 3)])
def test_strangers_do_not_keep_a_device_out(devices: int, strangers: int) -> None:
    """They hold all that devices leave, or all that may be unproven; one of theirs gives way."""
    evicted: list[str] = []

    def evict(network: str) -> None:
        evicted.append(network)
        admission.leave(network, proven=False)

    admission = Admission(LIMITS, evict)
    for number in range(devices):
        assert admission.arrive(f"192.0.2.{number}", 0.0) is None
        admission.prove(f"192.0.2.{number}")
    for number in range(strangers):
        for _ in range(3):
            admission.arrive(f"198.51.100.{number}", 0.0)
    among_themselves = len(evicted)
    assert admission.arrive("203.0.113.1", 0.0) is None
    assert len(evicted) == among_themselves + 1
    assert all(network.startswith("198.51.100.") for network in evicted)


def test_none_gives_way_to_one_with_as_many() -> None:
    """Or to itself, or to who would be refused anyway."""

    def evict(network: str) -> None:
        raise AssertionError(network)

    admission = Admission(LIMITS, evict)
    for number in (1, 2):
        for _ in range(3):
            assert admission.arrive(f"192.0.2.{number}", 0.0) is None
    for _ in range(4):
        assert admission.arrive("192.0.2.1", 1.0) is not None
    assert "in a row" in str(admission.arrive("192.0.2.1", 1.0))

    admission = Admission(LIMITS, evict)
    for number in range(6):
        assert admission.arrive(f"192.0.2.{number}", 0.0) is None
    assert admission.arrive("192.0.2.7", 0.0) is not None


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("apl")), max_size=60))
def test_limits_hold_whatever_comes_and_goes(events: list[tuple[int, str]]) -> None:
    """Against counts kept here: (a)rrive, (p)rove, (l)eave by four addresses, a second each."""
    admission = Admission(LIMITS)
    unproven = dict.fromkeys(range(1, 5), 0)
    proven = dict(unproven)
    for now_s, (number, what) in enumerate(events):
        address = f"192.0.2.{number}"
        if what == "a" and admission.arrive(address, float(now_s)) is None:
            unproven[number] += 1
        elif what == "p" and unproven[number]:
            admission.prove(address)
            unproven[number] -= 1
            proven[number] += 1
        elif what == "l" and unproven[number] + proven[number]:
            kind = proven if proven[number] else unproven
            kind[number] -= 1
            admission.leave(address, proven=kind is proven)
        assert max(unproven.values()) <= LIMITS.unproven_by_address
        assert sum(unproven.values()) <= LIMITS.unproven
        assert sum(unproven.values()) + sum(proven.values()) <= LIMITS.connections


def test_addresses_without_end_are_not_remembered_without_end() -> None:
    admission = Admission(LIMITS)
    for number in range(6_000):
        address = f"198.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        if admission.arrive(address, 0.0) is None:
            admission.leave(address, proven=False)
    assert admission.remembered <= 4096


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_one_host_counts_once(address: str, network: str) -> None:
    assert network_of(address) == network
