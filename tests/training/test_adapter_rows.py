"""Adapter rows that travel as coded changes: both ends by hand, in every scheme, and resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.codec.adapters import AdapterCodecs, best, int8
from cutlayer.config.schema import Config
from cutlayer.errors import PacketError
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start
from cutlayer.model.lora import RowLayout, Slot
from cutlayer.rounds.schemes import Phase
from cutlayer.training.adapter_rows import RowCodec, RowExchange, SentRow, pack_adapter
from cutlayer.training.expected import initial_state
from cutlayer.training.memory import measure_memory
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.state import AdapterState, EvaluationRule, Setup

Folders = tuple[Path, Path]
LAYOUT = RowLayout((Slot("a", (2, 24)), Slot("b", (24, 2))))
ROWS = RowCodec(AdapterCodecs(best(1.0), best(1.0)), LAYOUT)


def _row(seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(LAYOUT.parameters, generator=torch.Generator().manual_seed(seed))


def test_a_packet_is_of_a_row_or_of_a_change() -> None:
    first, second = _row(0), _row(1)
    whole = ROWS.opening(first, None)
    assert torch.equal(ROWS.decode(whole.packet, None), first)
    coded = ROWS.opening(second, first)
    assert torch.equal(ROWS.decode(coded.packet, first), coded.received)
    assert len(coded.packet) < len(whole.packet) and not torch.equal(coded.received, second)
    with pytest.raises(PacketError, match="no adapter here that it is the change of"):
        ROWS.decode(coded.packet, None)
    with pytest.raises(PacketError, match="makes it NaN or infinite"):
        ROWS.decode(coded.packet, torch.full_like(first, torch.inf))
    with pytest.raises(PacketError, match="kind 'adapter', expected 'none'"):
        RowCodec(None, LAYOUT).decode(coded.packet, first)
    with pytest.raises(PacketError, match="NaN or infinite"):
        ROWS.encode(_row(0) * torch.nan)
    plain = len(pack_adapter(first))
    assert len(whole.packet) <= plain
    assert ROWS.sent(whole.packet).uncompressed_bytes == plain
    assert ROWS.sent(coded.packet).uncompressed_bytes == plain
    begun = first.clone()
    begun[LAYOUT.parameters // 2 :] = 0  # B, before training
    assert len(ROWS.whole(begun)) < 0.6 * plain
    assert torch.equal(ROWS.decode(ROWS.whole(begun), None), begun)


def test_what_comes_up_is_added_to_the_servers_own_row() -> None:
    """Devices begin with what has come to them; the server's row has not lost what they have, and
    what an upload loses is in the next."""
    server = _row(0)
    exchange = RowExchange(ROWS, AdapterState(server, {}), (0,), merges=True)
    begun = exchange.down(server, (0,))[-1].row
    assert torch.equal(begun, server)
    known, lost = server, torch.zeros_like(server)
    for number in range(1, 4):
        trained = begun + _row(number, 0.1)
        change = trained - begun + lost
        coded = ROWS.encode(change)
        came, sent = exchange.up(0, trained)
        known, lost = known + coded.received, change - coded.received
        assert torch.equal(came, known) and sent.payload_bytes == len(coded.packet)
        state = AdapterState(known, {}, exchange.coded)
        assert torch.equal(state.coded["lost.0"], lost)
        # another round, from a checkpoint
        held = begun
        exchange = RowExchange(
            ROWS, AdapterState.from_tensors("x", state.tensors("x")), (0,), merges=True
        )
        begun = exchange.down(known, (0,))[-1].row
        assert torch.equal(begun, held + ROWS.encode(known - held).received)


def test_where_devices_keep_theirs_the_server_follows() -> None:
    begun = _row(0)
    exchange = RowExchange(ROWS, AdapterState(begun, {}), (0,), merges=False)
    exchange.down(begun, (0,))
    own = begun
    for number in range(1, 30):
        own = own + _row(number, 0.1) if number < 3 else own
        known, _ = exchange.up(0, own)
        state = exchange.kept(own[None])
        assert torch.equal(state.row[0], known)
        exchange = RowExchange(ROWS, state, (0,), merges=False)
        assert torch.equal(exchange.begins_with[0], own)
    # it stands still, and what was lost has come
    assert (known - own).norm() < 1e-3 * (own - begun).norm()


def test_a_devices_memory_is_read_back() -> None:
    for memory in (SentRow(_row(0)), SentRow(_row(0), _row(1))):
        again = SentRow.from_tensors(memory.tensors())
        assert again is not None
        assert torch.equal(again.wanted(_row(2)), memory.wanted(_row(2)))
    assert SentRow.from_tensors({}) is None


def _setup(folders: Folders, codec: object, **sections: object) -> Setup:
    setup = prepare(tiny.config(*folders, codec="none", adapter_codec=codec, **sections)).setup
    return replace(setup, simulation=replace(setup.simulation, group=1))


def _played(setup: Setup, rounds: int) -> list[RoundOutcome]:
    outcomes: list[RoundOutcome] = []
    state = initial_state(setup)
    for _ in range(rounds):
        outcomes.append(Round(setup, state).play())
        state = outcomes[-1].state
    return outcomes


SCHEMES = ("sft", "sl", "splitlora", "fl-lora")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_sends_less_and_trains_nearly_the_same(vision: Folders, scheme: str) -> None:
    """With int8; the first row comes down whole, coded without loss, and the timeline has it."""
    plain, coded = (_played(_setup(vision, codec, scheme=scheme), 2) for codec in ("none", "int8"))
    begun = initial_state(_setup(vision, "none", scheme=scheme))
    for side in ("device", "server"):
        start, exact, close = (
            getattr(state, side).row for state in (begun, plain[-1].state, coded[-1].state)
        )
        assert (close - exact).norm() < 0.1 * (exact - start).norm()
    first, later = (
        [played[n].round_costs.bytes_by_payload() for played in (plain, coded)] for n in range(2)
    )
    assert first[1]["adapter_down"] < 0.9 * first[0]["adapter_down"]
    for payloads, name in ((first, "adapter_up"), (later, "adapter_up"), (later, "adapter_down")):
        assert 0.2 < payloads[1][name] / payloads[0][name] < 0.55
    counts = [played[1].round_costs.byte_counts() for played in (plain, coded)]
    assert counts[0]["uncompressed_uplink_bytes"] == counts[1]["uncompressed_uplink_bytes"]
    up_s = [played[1].timeline.phase_seconds(0)[Phase.ADAPTER_UP] for played in (plain, coded)]
    assert up_s[1] < 0.55 * up_s[0]


@pytest.mark.parametrize("aggregation", ("fedprox", "none", "device", "server"))
def test_every_aggregation_trains_nearly_the_same(vision: Folders, aggregation: str) -> None:
    """Also where devices keep their own, which come up in the rounds that are evaluated."""
    states = []
    for codec in ("none", "int8"):
        setup = _setup(vision, codec, aggregation=aggregation)
        rule = EvaluationRule(every=3, rounds=3)
        setup = replace(setup, server=replace(setup.server, evaluation=rule))
        states.append(_played(setup, 3)[-1].state)
    begun = initial_state(setup)
    for side in ("device", "server"):
        start, exact, close = (getattr(state, side).row for state in (begun, *states))
        assert (close - exact).norm() < 0.1 * (exact - start).norm()
    if aggregation in ("none", "server"):
        own = states[1].device.coded["own"]
        assert 0 < (own - states[1].device.row).norm() < 0.05 * (own - begun.device.row).norm()


def test_a_part_that_is_frozen_is_the_servers_as_devices_have_it(vision: Folders) -> None:
    """Else what its last broadcast lost would be between them for good."""
    coarse = {"name": "best", "target_bits_up": 0.3, "target_bits_down": 0.5}
    outcomes = _played(_setup(vision, coarse, device_part={"name": "warm", "rounds": 1}), 3)
    sent = [outcome.round_costs.bytes_by_payload() for outcome in outcomes]
    assert sent[1]["adapter_down"] < sent[0]["adapter_down"] / 3
    assert "adapter_up" not in sent[1] and "adapter_down" not in sent[2]
    trained, held, last = (outcome.state.device for outcome in outcomes)
    known = trained.coded["held"]
    assert not torch.equal(held.row, trained.row) and torch.equal(held.row, last.row)
    layout = _setup(vision, coarse).server.device_part.adapted.layout
    coded = RowCodec(AdapterCodecs(best(0.3), best(0.5)), layout).opening(trained.row, known)
    assert torch.equal(held.row, coded.received) and not held.coded


@pytest.mark.parametrize("scheme", ("sft", "fl-lora"))
def test_two_rows_are_remembered(vision: Folders, scheme: str) -> None:
    plain, coded = (_setup(vision, codec, scheme=scheme) for codec in ("none", "best"))
    before, after = (measure_memory(own, initial_state(own)).device for own in (plain, coded))
    assert after.codec - before.codec == 2 * before.adapters > 0


def test_all_weights_are_no_adapter(vision: Folders) -> None:
    assert _setup(vision, "int8", scheme="fl-full").training.adapter_codec is None


def test_a_round_is_expected_to_take_what_it_takes(vision: Folders) -> None:
    """The first allocation is made for it: here for rows whose tables are most of a packet."""
    plain, coded = (initial_state(_setup(vision, codec)).observed for codec in ("none", "int8"))
    assert (coded.uplink_bits < plain.uplink_bits).all()
    assert int8().expected_ratio == pytest.approx(0.25, rel=0.01)


def _config(vision: Folders, **sections: object) -> Config:
    coarse = {"name": "best", "target_bits_up": 0.5, "target_bits_down": 1.0}
    return tiny.config(*vision, codec="none", adapter_codec=coarse, **sections)


@pytest.mark.parametrize(
    "sections", ({}, {"aggregation": "none"}, {"scheme": "sl"}, {"scheme": "fl-lora"})
)
def test_a_run_resumes_to_the_bit(
    vision: Folders, tmp_path: Path, sections: dict[str, object]
) -> None:
    whole = start(_config(vision, training={"rounds": 2}, **sections), tmp_path).path
    split = start(_config(vision, training={"rounds": 1}, **sections), tmp_path).path
    resume(split, changes={"training.rounds": "2"})
    for name in ("checkpoint.safetensors", "trace.jsonl"):
        assert (whole / name).read_bytes() == (split / name).read_bytes(), name


def test_a_run_that_starts_from_an_adapter_sends_it_whole_once(
    vision: Folders, tmp_path: Path
) -> None:
    first = start(_config(vision, training={"rounds": 1}), tmp_path).path
    setup = _setup(vision, "best", adapter={"start_from": str(first)})
    before = initial_state(setup).device.row
    assert not torch.equal(before, initial_state(_setup(vision, "best")).device.row)
    outcomes = _played(setup, 2)
    assert torch.equal(outcomes[0].state.device.coded["held"], before)
    sent = [outcome.round_costs.bytes_by_payload()["adapter_down"] for outcome in outcomes]
    assert sent[0] <= len(pack_adapter(before)) and sent[1] < sent[0] / 3
