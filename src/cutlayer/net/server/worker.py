"""What the server computes, a device's micro-batch at a time: by the same calls as the trainer.

Knows no frames, no links and no order: the session says what is next. A call either succeeds or
leaves everything as it was.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from cutlayer.channel.shannon import RateCurves
from cutlayer.codec.codec import CodecState, Direction, Stream
from cutlayer.codec.packet import read_packet
from cutlayer.codec.raw import decode_targets
from cutlayer.errors import ConfigError, PacketError, RunError
from cutlayer.net.server.session import ServerSession
from cutlayer.net.server.timing import (
    MeasuredRound,
    ServerWatch,
    Shape,
    measured_round,
    observed_round,
)
from cutlayer.net.wire.limits import Bounds
from cutlayer.net.wire.messages import Activation, Adapter
from cutlayer.planner.allocation import Allocation, Shares
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import Phase
from cutlayer.train.evaluate import evaluate
from cutlayer.train.exchange import Load, encode, pack_adapter, server_pass, unpack_adapter
from cutlayer.train.records import UNOBSERVED, Observer, TraceLine, TrainedRound
from cutlayer.train.run_directory import RunDirectory, check_finite
from cutlayer.train.state import RunState, ServerSide, Side, SideState, Training
from cutlayer.train.torch_codec import Arrived, for_device
from cutlayer.units import BITS_PER_BYTE

_HOST = torch.device("cpu")


@final
class ServerWorker:
    """The server-side adapter of each of so many `devices` during a round, and what the server's
    ends of the streams remember; it takes nothing beyond `bounds`.

    Of the last round that closed: `train_loss`, a local step's mean loss [nat], and `plain_bytes`,
    what its activations would have been as float32, and as much its gradients. `samples`: how many
    each device says that it has, 0 as long as it has said nothing.
    """

    def __init__(
        self,
        training: Training,
        server: ServerSide,
        devices: int,
        bounds: Bounds,
        state: RunState,
    ) -> None:
        self._training = training
        self._server = server
        self._devices = devices
        self._bounds = bounds
        self.train_loss = math.nan
        self.plain_bytes = 0
        self.samples = [0] * devices
        self._start(state)

    @property
    def state(self) -> RunState:
        """The state as the round began: what a checkpoint holds."""
        return self._state

    @property
    def adapter(self) -> bytes:
        """The device-side adapter with which the round began, as a packet."""
        return pack_adapter(self._state.device.row)

    @property
    def held_bytes(self) -> int:
        """The adapters that devices have sent in this round [bytes]."""
        return sum(row.nbytes for row, _ in self._taken.values())

    def train(self, device: int, message: Activation) -> bytes:
        """Forward and backward of one micro-batch, and the gradient's packet.

        After a mini-batch's last micro-batch the device's server-side adapter steps. Raises
        PacketError for anything that no device may send.
        """
        training, part, position = self._training, self._server.part, message.position
        arrived, labels = self._read(device, message)
        lengths = None if part.task == "image-classification" else arrived.lengths
        rows = self._side.gather((device,)).requires_grad_()
        weights, sizes = (message.micro.weight,), (len(labels),)
        passed = server_pass(part, rows, sizes, arrived.tensor, lengths, labels, weights)
        key = (position.round, device, position.step, position.micro, Direction.DOWN)
        load = Load(passed.gradient, lengths, message.samples)
        down = self._end(device, Direction.DOWN)
        codec = for_device(training.codecs.down, _HOST)
        outgoing = encode(codec, load, training.seed, key, down)
        assert rows.grad is not None
        self._side.collect((device,), rows.grad)
        if message.micro.last:
            self._side.step((device,), training.rate_of(position.round))
        self._plain_bytes += outgoing.sent.uncompressed_bytes
        self._lose(device, message, passed.losses[0])
        self._streams[device, Direction.UP] = Stream(receiver=arrived.state)
        self._streams[device, Direction.DOWN] = Stream(sender=outgoing.state)
        return outgoing.packet

    def take(self, device: int, message: Adapter) -> None:
        """Keep a device's adapter until the round closes. Raises PacketError: it is none."""
        row = unpack_adapter(message.packet, self._state.device.row.numel())
        self._taken[device] = row, float(message.weight.samples)
        self.samples[device] = message.weight.samples

    def renew(self, device: int) -> None:
        """Void what a device has done of the round, and what its streams and optimiser hold."""
        self._side.renew(device, self._state.server.row)
        self._taken.pop(device, None)
        self._losses.pop(device, None)
        for direction in Direction:
            self._streams.pop((device, direction), None)

    def merge(
        self, made: Sequence[int], measured: MeasuredRound | None = None, passed_s: float = 0.0
    ) -> None:
        """Close the round with the devices in `made`, weighted by the samples that each says it
        trained on; open the next one. `measured`: how long it took, if that was seen;
        else it took `passed_s`.

        The others begin it anew. Raises RunError for adapters that are not finite; the round is
        then as it was. Source: SFT eqs. (7), (8), over those who made it.
        """
        rows, weights = zip(*(self._taken[device] for device in made), strict=True)
        device_row = self._server.aggregation.merge(torch.stack(rows), weights)
        server_row = self._server.aggregation.merge(self._side.gather(made), weights)
        if not (device_row.isfinite().all() and server_row.isfinite().all()):
            raise RunError(
                f"round {self._state.round + 1} diverged: its merged adapters are not finite; what"
                " the round before left is kept, and going on from it comes to the same. Start a"
                " new run with a lower optimizer.learning_rate"
            )
        self.train_loss, self.plain_bytes = self._mean_loss(made), self._plain_bytes
        for device in set(range(self._devices)) - set(made):
            self.renew(device)
        state, delay_s = self._state, passed_s
        if measured is not None:
            delay_s = measured.delay_s
            state = replace(state, observed=observed_round(measured, state.observed))
        self._start(
            replace(
                state,
                round=state.round + 1,
                virtual_time_s=state.virtual_time_s + delay_s,
                device=SideState(device_row, {}),
                server=SideState(server_row, self._side.optimizer),
                streams=dict(self._streams),
            )
        )

    def _start(self, state: RunState) -> None:
        self._state = state
        self._side = Side(state.server, self._devices, self._training.optimizer, shared=False)
        self._streams = dict(state.streams)
        self._taken: dict[int, tuple[torch.Tensor, float]] = {}
        self._losses: dict[int, list[float]] = {}
        self._plain_bytes = 0

    def _lose(self, device: int, message: Activation, loss: float) -> None:
        """Enter a micro-batch's part of its local step's loss."""
        steps = self._losses.setdefault(device, [])
        if message.position.micro == 0:
            steps.append(0.0)
        steps[-1] += loss

    def _mean_loss(self, made: Sequence[int]) -> float:
        losses = [loss for device in made for loss in self._losses[device]]
        return sum(losses) / len(losses)

    def _read(self, device: int, message: Activation) -> tuple[Arrived, Tensor]:
        """The activation and its labels, if they are such as the run may have."""
        training, shape = self._training, self._shape(message)
        codec = for_device(training.codecs.up, _HOST)
        arrived = codec.decode(message.packet, shape, self._end(device, Direction.UP))
        if not arrived.tensor.isfinite().all():
            raise PacketError("an activation of NaN or infinite values")
        if training.task != "image-classification" and min(arrived.lengths) < 1:
            raise PacketError("an activation of a text without a token")
        labelled = shape[:2] if training.task == "causal-lm" else shape[:1]
        labels = decode_targets(message.labels, labelled, arrived.lengths, training.classes)
        return arrived, torch.from_numpy(labels)

    def _end(self, device: int, direction: Direction) -> CodecState:
        """What the server's end of a stream remembers."""
        stream = self._streams.get((device, direction), Stream())
        return stream.receiver if direction is Direction.UP else stream.sender

    def _shape(self, message: Activation) -> tuple[int, int, int]:
        """The shape that a packet claims, if it is one that the run may have."""
        shape, largest = read_packet(message.packet).shape, self._bounds
        if not (
            len(shape) == 3
            and 1 <= shape[0] <= largest.samples
            and 1 <= shape[1] <= largest.tokens
            and shape[2] == largest.width
        ):
            raise PacketError(
                f"an activation of shape {shape}; at most {largest.samples} samples of"
                f" {largest.tokens} tokens of {largest.width} values are taken"
            )
        if len(message.samples) != shape[0]:
            raise PacketError(f"{len(message.samples)} sample numbers for {shape[0]} samples")
        batch, token, width = shape
        return batch, token, width


# What a server makes of a round that has closed: how long it took, and the next one's shares.
#
# Knows no link and no tensor. Shares are the allocation's, decided on what was measured: computing
# times, bytes, and how much of the band each device's own line can carry.


_LOG = logging.getLogger(__name__)
# of its pace: who sends faster than this has a line that carries its share. The rest is for what
# latency takes of short payloads
_KEEPS_PACE = 0.75
# a line that carried its share may carry so much more: it is tried
_GROWTH = 1.25
# of its share: less is a device that hardly sends
_LEAST = 0.01


@final
class Controller:
    """A run's rounds. `curves`: each device's rates by its share, in round 1, 2, ... at so many
    seconds of the run; `shares`: those of the round in progress. `passed_s`: from the close before
    the last one, or the server's start, to the last one [s]."""

    def __init__(
        self,
        watch: ServerWatch,
        shape: Shape,
        allocation: Allocation,
        curves: Callable[[int, float], RateCurves],
        state: RunState,
    ) -> None:
        self.watch = watch
        self._shape = shape
        self._allocation = allocation
        self._curves = curves
        self.passed_s = 0.0
        self._closed_s = watch.now()
        self._most = np.ones(len(shape.steps))
        self.shares = self._allocated(state)

    def close(self) -> MeasuredRound | None:
        """How long the round took, which closes now; None if its beginning was not seen."""
        seen, now_s = self.watch.close(), self.watch.now()
        self.passed_s, self._closed_s = now_s - self._closed_s, now_s
        if seen is None or not seen.devices:
            return None
        return measured_round(seen, self._shape)

    def reopen(self, state: RunState, measured: MeasuredRound | None) -> Shares:
        """The shares of the round after `state`, of which the last one was `measured`."""
        if measured is not None:
            self._learn(measured)
        try:
            self.shares = self._allocated(state)
        except ConfigError as error:
            _LOG.warning("shares stay as they are: %s", error)
        return self.shares

    def _allocated(self, state: RunState) -> Shares:
        curves = self._curves(state.round + 1, state.virtual_time_s)
        # what no line carries is nobody's: it is left to all
        most = self._most / min(1.0, self._most.sum())
        allocation = self._allocation.within(tuple(np.minimum(most, 1.0).tolist()))
        shares = allocation.shares(state.round + 1, state.observed, curves)
        self._paces = np.array(
            [curve.rate_bit_per_s(np.array(shares)) for curve in (curves.uplink, curves.downlink)]
        )
        return shares

    def _learn(self, measured: MeasuredRound) -> None:
        """How large a share each device's line can carry: less than it had, if nothing that went
        either way kept its pace; else a little more than was thought."""
        for device, own in measured.devices.items():
            kept = float((np.array(_fastest_bit_s(own)) / self._paces[:, device]).max())
            if kept < _KEEPS_PACE:
                self._most[device] = max(kept, _LEAST) * self.shares[device]
            else:
                self._most[device] = min(1.0, _GROWTH * self._most[device])


def _fastest_bit_s(own: RoundTimeline) -> tuple[float, float]:
    """The best rate of each way: short payloads wait more than they send."""
    link, seconds = own.work[0].rates.link, own.phase_seconds(0)
    adapter_bits = BITS_PER_BYTE * float(own.work[0].amounts[Phase.ADAPTER_UP].sum())
    upload_s = seconds[Phase.ADAPTER_UP]
    upload_bit_s = adapter_bits / upload_s if upload_s > 0 else math.inf
    return max(link.uplink_bit_per_s, upload_bit_s), link.downlink_bit_per_s


# What a server writes about each round that closes, and puts its checkpoint in place.
#
# The keys are the trainer's, and seconds by phase are measured where the trainer's are simulated.


_UP = ("activation", "labels", "adapter_up")
_DOWN = ("model", "adapter_down", "gradient")


@final
class Recorder:
    """Evaluates, records and checkpoints the rounds of a networked run.

    Bytes of a round in which the server was started are those since its start, and its seconds,
    where nobody saw its beginning, too.
    """

    def __init__(
        self,
        training: Training,
        server: ServerSide,
        directory: RunDirectory,
        worker: ServerWorker,
        session: ServerSession,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._training = training
        self._server = server
        self._directory = directory
        self._worker = worker
        self._traffic = session.traffic
        self._session = session
        self._shares = session.shares
        self._observer = observer
        self._clock = clock
        self._began_s = clock()
        # the run's one clock is the state's
        self._elapsed_s = worker.state.virtual_time_s

    def save(self, state: RunState, measured: MeasuredRound | None) -> None:
        """The trace, the record, then the checkpoint, of a round that has closed.

        Raises RunError.
        """
        passed_s = state.virtual_time_s - self._elapsed_s
        delay_s = passed_s if measured is None else measured.delay_s
        evaluation = evaluate(self._training, self._server, state)
        record = TrainedRound(
            round=state.round,
            **evaluation.metric(self._training.task),
            eval_loss=evaluation.loss,
            train_loss=self._worker.train_loss,
            shares=tuple(self._shares),
            delay_s=delay_s,
            **self._seconds(measured, delay_s),
            virtual_time_s=state.virtual_time_s,
            **self._bytes(state.round),
            wall_s=self._clock() - self._began_s,
        )
        check_finite(self._directory.path, record, simulated=False)
        events = () if measured is None else measured.events()
        lines = (TraceLine(round=state.round, event=event) for event in events)
        self._directory.append("trace.jsonl", lines)
        self._directory.append("rounds.jsonl", [record])
        self._directory.save(state)
        self._began_s, self._elapsed_s = self._clock(), state.virtual_time_s
        self._shares = self._session.shares
        self._observer.round_done(record)

    def _seconds(self, measured: MeasuredRound | None, delay_s: float) -> dict[str, Any]:
        """Seconds by device and phase; of a device that did not make the round, all of it."""
        count = len(self._worker.samples)
        took_s: Mapping[int, float] = {} if measured is None else measured.took_s
        delays_s = [took_s.get(device, delay_s) for device in range(count)]
        seen = [None if measured is None else measured.phase_seconds(n) for n in range(count)]
        phases = [_named(own, total_s) for own, total_s in zip(seen, delays_s, strict=True)]
        slowest = 0 if measured is None else measured.slowest_device
        return {
            "delay_by_phase_s": phases[slowest],
            "slowest_device": slowest,
            "device_delay_s": tuple(delays_s),
            "device_delay_by_phase_s": tuple(phases),
        }

    def _bytes(self, round_number: int) -> dict[str, Any]:
        """What crossed this server's links since it was started."""
        counted = self._traffic.of(round_number)
        up, down = (sum(counted.get(name, 0) for name in names) for names in (_UP, _DOWN))
        plain = self._worker.plain_bytes
        return {
            "uplink_bytes": up,
            "downlink_bytes": down,
            "uncompressed_uplink_bytes": up - counted.get("activation", 0) + plain,
            "uncompressed_downlink_bytes": down - counted.get("gradient", 0) + plain,
            "bytes_by_payload": counted,
        }


def _named(phases: Mapping[Phase, float] | None, delay_s: float) -> dict[str, float]:
    if phases is None:
        return {UNOBSERVED: delay_s}
    return {phase.value: spent for phase, spent in phases.items()}
