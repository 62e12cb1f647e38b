"""What a server computes with: nothing that a device may not send leaves a trace."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from cutlayer.codec.codec import EMPTY, Segments
from cutlayer.codec.packet import Packet, packet_to_bytes
from cutlayer.codec.raw import RawCodec, Targets, encode_targets
from cutlayer.errors import PacketError, RunError
from cutlayer.jobs.prepare import prepare
from cutlayer.net.server.worker import MergeRule, ServerWorker
from cutlayer.net.wire.messages import Activation, Adapter, Micro, Position, Weight
from cutlayer.rounds.schemes import Merging
from cutlayer.training.adapter_rows import pack_adapter
from cutlayer.training.evaluation import DeviceShare
from cutlayer.training.expected import initial_state
from cutlayer.training.state import EvaluationRule, Setup
from net.harness import Run

BATCH, TOKENS, WIDTH = 4, 5, 24


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*vision, codec="none")).setup


def _packet(*shape: int) -> bytes:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return RawCodec().encode(values, EMPTY, np.random.default_rng(0)).packet


def _infinite() -> bytes:
    values = np.full((BATCH, TOKENS, WIDTH), np.inf, dtype="<f4")
    shape = values.shape
    return packet_to_bytes(
        Packet("none", shape, Segments.full(shape), {"values": values.tobytes()})
    )


def good() -> Activation:
    """A mini-batch of random values, as a device may send it."""
    labels = encode_targets(Targets(np.arange(BATCH) % tiny.CLASSES), None, tiny.CLASSES)
    packet = _packet(BATCH, TOKENS, WIDTH)
    return Activation(Position(1, 0, 0), Micro(1.0, True), packet, labels, tuple(range(BATCH)))


def alone(worker: ServerWorker, device: int, message: Activation) -> bytes:
    """A pass of its own."""
    (packet,) = worker.train([(device, message)])
    return packet


HOSTILE = {
    "no packet": replace(good(), packet=b"x" * 100),
    "too many samples": replace(good(), packet=_packet(BATCH + 1, TOKENS, WIDTH)),
    "no samples": replace(good(), packet=_packet(0, TOKENS, WIDTH)),
    "too many tokens": replace(good(), packet=_packet(1, 17, WIDTH), samples=(0,)),
    "another width": replace(good(), packet=_packet(BATCH, TOKENS, WIDTH + 1)),
    "two dimensions": replace(good(), packet=_packet(BATCH, WIDTH)),
    "infinite": replace(good(), packet=_infinite()),
    "labels of other samples": replace(good(), labels=good().labels[1:]),
    "no such label": replace(
        good(), labels=encode_targets(Targets(np.full(BATCH, tiny.CLASSES)), None, tiny.CLASSES + 1)
    ),
    "numbers of other samples": replace(good(), samples=(1, 2, 3)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_device_may_send_changes_nothing(what: str, setup: Setup, tmp_path: Path) -> None:
    """The next good activation gives what it would have given."""
    run = Run(setup, tmp_path)
    calm, attacked = (run.server_worker(initial_state(setup)) for _ in range(2))
    with pytest.raises(PacketError):
        alone(attacked, 0, HOSTILE[what])
    assert alone(attacked, 0, good()) == alone(calm, 0, good())
    second = replace(good(), position=Position(1, 1, 0))
    assert alone(attacked, 0, second) == alone(calm, 0, second)


@pytest.mark.parametrize("lengths", [(0,) * BATCH, (3, 0, TOKENS, 1)])
def test_a_text_without_a_token_is_refused(
    lengths: tuple[int, ...], bert: tuple[Path, Path], tmp_path: Path
) -> None:
    setup = prepare(tiny.config(*bert, codec="none")).setup
    worker = Run(setup, tmp_path).server_worker(initial_state(setup))
    values = np.ones((BATCH, TOKENS, WIDTH), np.float32)
    encoded = RawCodec().encode(values, EMPTY, np.random.default_rng(0), lengths=lengths)
    labels = encode_targets(Targets(np.zeros(BATCH, np.int64)), None, setup.training.classes)
    with pytest.raises(PacketError, match="without a token"):
        alone(worker, 0, replace(good(), packet=encoded.packet, labels=labels))


def test_an_adapter_of_other_values_is_refused(setup: Setup, tmp_path: Path) -> None:
    worker = Run(setup, tmp_path).server_worker(initial_state(setup))
    parameters = initial_state(setup).device.row.numel()
    with pytest.raises(PacketError):
        worker.store_adapter(0, Adapter(1, Weight(1), pack_adapter(torch.zeros(parameters + 1))))


@pytest.mark.parametrize(
    ("samples", "labels"), [(3, [1, 1]), (tiny.CLASSES + 1, [1] * (tiny.CLASSES + 1))]
)
def test_counts_of_labels_that_cannot_be_are_refused(
    samples: int, labels: list[int], setup: Setup, tmp_path: Path
) -> None:
    first = initial_state(setup)
    worker = Run(setup, tmp_path).server_worker(first)
    packet = pack_adapter(first.device.row)
    with pytest.raises(PacketError, match="counts of labels that sum to"):
        worker.store_adapter(0, Adapter(1, Weight(samples, labels), packet))
    assert worker.shares[0] == DeviceShare(0, None)
    worker.store_adapter(0, Adapter(1, Weight(3, [1, 2]), packet))
    assert worker.shares[0] == DeviceShare(3, (1, 2))


def test_of_a_device_that_keeps_its_adapter_the_last_that_came_is_known(
    setup: Setup, tmp_path: Path
) -> None:
    """It missed a round, or the round was not evaluated and it sent nothing."""
    setup = replace(
        setup,
        training=replace(setup.training, merging=Merging(device=False, server=False)),
        server=replace(setup.server, evaluation=EvaluationRule(every=3, rounds=9)),
    )
    first = initial_state(setup)
    worker = Run(setup, tmp_path).server_worker(first)
    sent = first.device.row + 1.0
    for device in (0, 1):
        alone(worker, device, good())
    with pytest.raises(PacketError):  # the round is evaluated: it has to come
        worker.store_adapter(0, Adapter(1, Weight(1), b""))
    worker.store_adapter(0, Adapter(1, Weight(1), pack_adapter(sent)))
    worker.merge((0,))
    state = worker.state
    assert torch.equal(state.device.row[0], sent)
    assert torch.equal(state.device.row[1], first.device.row)
    assert not torch.equal(state.server.row[0], first.server.row)
    assert torch.equal(state.server.row[1], first.server.row)
    assert worker.adapter == b"" and len(worker.own_adapters) == 3
    alone(worker, 0, replace(good(), position=Position(2, 0, 0)))
    worker.store_adapter(0, Adapter(2, Weight(1), b""))
    worker.merge((0,))
    assert torch.equal(worker.state.device.row[0], sent)
    assert not torch.equal(worker.state.server.row[0], state.server.row[0])


def test_adapters_that_are_not_finite_are_not_merged(setup: Setup, tmp_path: Path) -> None:
    fast = replace(setup, training=replace(setup.training, learning_rate=1e300))
    first = initial_state(setup)
    worker = Run(fast, tmp_path).server_worker(first)
    alone(worker, 0, good())
    worker.store_adapter(0, Adapter(1, Weight(1), pack_adapter(first.device.row)))
    with pytest.raises(RunError, match="round 1 diverged: its aggregated adapters are not finite"):
        worker.merge((0,))
    assert worker.state is first


@pytest.mark.parametrize("poison", [1e30, 3.0])
def test_an_absurd_adapter_costs_its_device_the_round_and_nobody_else(
    poison: float, setup: Setup, tmp_path: Path
) -> None:
    """The others' merge is as if it had not sent one."""
    first = initial_state(setup)
    sent = first.device.row + 1e-3
    states = []
    for hostile in (True, False):
        worker = Run(setup, tmp_path / str(hostile)).server_worker(first)
        for device in (0, 1, 2) if hostile else (0, 2):
            alone(worker, device, good())
            row = torch.full_like(sent, poison) if device == 1 else sent
            worker.store_adapter(device, Adapter(1, Weight(1), pack_adapter(row)))
        made = (0, 1, 2) if hostile else (0, 2)
        assert worker.merge(made) == (0, 2)
        assert list(worker.refused) == ([1] if hostile else [])
        states.append(worker.state)
    assert torch.equal(states[0].device.row, states[1].device.row)
    assert torch.equal(states[0].server.row, states[1].server.row)
    assert states[0].streams.keys() == states[1].streams.keys()


def test_where_all_that_came_is_absurd_the_round_closes_with_what_it_began_with(
    setup: Setup, tmp_path: Path
) -> None:
    """As of a quorum of one, which is hostile: it is not its turn to say where the run goes."""
    first = initial_state(setup)
    worker = Run(setup, tmp_path).server_worker(first)
    alone(worker, 1, good())
    poison = torch.full_like(first.device.row, 1e30)
    worker.store_adapter(1, Adapter(1, Weight(1), pack_adapter(poison)))
    assert worker.merge((1,)) == ()
    assert list(worker.refused) == [1] and math.isfinite(worker.train_loss)
    assert worker.state.round == 1 and not worker.state.streams
    assert torch.equal(worker.state.device.row, first.device.row)
    assert torch.equal(worker.state.server.row, first.server.row)


def test_a_weight_is_what_the_rule_makes_of_the_samples_that_a_device_says_it_has(
    setup: Setup, tmp_path: Path
) -> None:
    first = initial_state(setup)
    rows = [first.device.row + 1e-3 * moved for moved in (1, 2, 6)]
    said = (1, 4_294_967_295, 1)
    found = {}
    bounds = Run(setup, tmp_path).bounds
    for rule in (MergeRule(), MergeRule(equal=True), MergeRule(most_samples=1)):
        worker = ServerWorker(setup.training, setup.server, [1] * 3, bounds, first, rule=rule)
        for device, row in enumerate(rows):
            alone(worker, device, good())
            worker.store_adapter(device, Adapter(1, Weight(said[device]), pack_adapter(row)))
        assert worker.merge((0, 1, 2)) == (0, 1, 2)
        heavy = [text for text in worker.warnings((0, 1, 2)) if "more than all others" in text]
        assert len(heavy) == (rule == MergeRule())
        assert worker.warnings((0, 1, 2)) == []  # once
        found[rule] = worker.state.device.row
    taken, *bounded = found.values()
    torch.testing.assert_close(taken, rows[1], rtol=0, atol=1e-9)
    for row in bounded:
        torch.testing.assert_close(row, first.device.row + 3e-3, rtol=0, atol=1e-6)
    assert torch.equal(*bounded)


def test_a_device_that_begins_anew_is_as_if_it_had_not_begun(setup: Setup, tmp_path: Path) -> None:
    run = Run(setup, tmp_path)
    calm, renewed = (run.server_worker(initial_state(setup)) for _ in range(2))
    other = alone(calm, 1, good())
    alone(renewed, 0, good())
    renewed.renew(0)
    assert alone(renewed, 1, good()) == other
    assert alone(renewed, 0, good()) == alone(calm, 0, good())
    second = replace(good(), position=Position(1, 1, 0))
    assert alone(renewed, 0, second) == alone(calm, 0, second)


@pytest.mark.parametrize("what", HOSTILE)
def test_one_bad_message_in_a_batch_changes_nothing(
    what: str, setup: Setup, tmp_path: Path
) -> None:
    """The good ones, taken again without it, come to what they would have come to."""
    run = Run(setup, tmp_path)
    calm, attacked = (run.server_worker(initial_state(setup)) for _ in range(2))
    with pytest.raises(PacketError):
        attacked.train([(0, good()), (1, HOSTILE[what]), (2, good())])
    pair = [(0, good()), (2, good())]
    assert attacked.train(pair) == calm.train(pair)


def test_adapters_step_before_anything_else_is_computed(setup: Setup, tmp_path: Path) -> None:
    """Whoever calls for it: the gradient's packet is there before."""
    run = Run(setup, tmp_path)
    early, late = (run.server_worker(initial_state(setup)) for _ in range(2))
    second = replace(good(), position=Position(1, 1, 0))
    packets = []
    for worker in (early, late):
        first = alone(worker, 0, good())
        if worker is early:
            worker.step()
            worker.step()
        packets.append((first, alone(worker, 0, second)))
    assert packets[0] == packets[1]
