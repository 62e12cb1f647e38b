"""What the server computes: by the same calls as the trainer.

Knows no frames, no links and no order: the session says what is next. A call either succeeds or
leaves everything as it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from cutlayer.codec.codec import CodecState, Direction, Stream
from cutlayer.codec.packet import read_packet
from cutlayer.codec.raw import decode_targets, raw_bytes
from cutlayer.errors import PacketError, RunError
from cutlayer.model.optimizer import merged
from cutlayer.model.placement import HOST, to_device
from cutlayer.model.robust import impossible
from cutlayer.net.server.devices import Asks
from cutlayer.net.server.held import HeldSamples
from cutlayer.net.server.timing import MeasuredRound, observed_round
from cutlayer.net.wire.frames import Bounds
from cutlayer.net.wire.messages import Activation, Adapter, Held, OwnSamples
from cutlayer.rounds.batching import Waiting
from cutlayer.training.activation_cache import CacheFigures, Coded
from cutlayer.training.adapter_rows import HELD, RowCodec, pack_adapter
from cutlayer.training.evaluation import DeviceShare
from cutlayer.training.exchange import Load, Outgoing, encode
from cutlayer.training.server_batch import Served, ServerLoad, ServerReply, server_batch
from cutlayer.training.state import AdapterBank, AdapterState, RunState, ServerSide, Training
from cutlayer.training.torch_codec import for_device


@dataclass(frozen=True, eq=False)
class _Read:
    """A micro-batch as the server computes with it; what its stream's receiver remembers after what
    came of it, and what that was (None: nothing came)."""

    load: ServerLoad
    receiver: CodecState
    came: Served | None


@dataclass(frozen=True)
class MergeRule:
    """Whose adapters are merged, and what each weighs.

    `times_median`: as of `robust.impossible`. `equal`: all weigh the same; else the samples that a
    device says it has, or `most_samples` if it says more.
    """

    times_median: float | None = None
    equal: bool = False
    most_samples: int | None = None

    def weight(self, samples: float) -> float:
        """Of a device that says it has so many."""
        if self.equal:
            return 1.0
        return samples if self.most_samples is None else min(samples, float(self.most_samples))


# rounding, and what a codec of adapters lost in the rounds before
_SLACK = 2.0


@final
class ServerWorker:
    """The server-side adapter of each device during a round, and what the server's ends of the
    streams remember; it takes nothing beyond `bounds`. `local_steps`: of each device a round.

    Of the last round that closed: `train_loss`, a local step's mean loss [nat], and `plain_bytes`,
    what its activations would have been as float32, and as much its gradients, if it had any.
    `samples`: how many each device says that it has, 0 as long as it has said nothing. `held`: what
    it keeps of devices' activations, where it keeps any, and `cache` what became of that.
    `refused`: the devices whose adapters were not merged as the last round closed, and why.
    """

    def __init__(
        self,
        training: Training,
        server: ServerSide,
        local_steps: Sequence[int],
        bounds: Bounds,
        state: RunState,
        shares: Sequence[DeviceShare] = (),
        held: HeldSamples | None = None,
        rule: MergeRule = MergeRule(),
    ) -> None:
        self._training = training
        self._server = server
        self._local_steps = tuple(local_steps)
        self._bounds = bounds
        self._rule = rule
        self.refused: dict[int, str] = {}
        self._heavy: set[int] = set()
        self.train_loss = math.nan
        self.plain_bytes = 0
        shares = shares or (DeviceShare(0),) * len(local_steps)
        self.samples = [share.samples for share in shares]
        self._labels = [share.labels for share in shares]
        self._held = held
        self.cache: CacheFigures | None = None
        self._rows = RowCodec(training.adapter_codec, server.device_part.adapted.layout)
        self._start(state)

    @property
    def state(self) -> RunState:
        """The state as the round began: what a checkpoint holds."""
        return self._state

    @property
    def adapter(self) -> bytes:
        """The device-side adapter with which the round began, as a packet for those who had the one
        before; empty where each device has its own, or none."""
        if self._opening is None or not self._rows.layout.parameters:
            return b""
        return self._opening.packet

    @property
    def whole_adapter(self) -> bytes:
        """The same for those who had not; empty where it is the same packet."""
        if self._opening is None or self._rows.codec is None:
            return b""
        return self._rows.whole(self._opening.received) if self._rows.layout.parameters else b""

    @property
    def adapter_bytes(self) -> int:
        """Of a device-side adapter that goes whole."""
        return self._rows.sent(b"").uncompressed_bytes

    @property
    def own_adapters(self) -> tuple[bytes, ...]:
        """Where devices keep their own device-side adapters, what is known of each one's: what it
        sent last, or began with."""
        count, side = len(self._local_steps), self._state.device
        if self._training.merging.device:
            return ()
        if side.row.ndim == 1:
            return (self.adapter,) * count
        return tuple(pack_adapter(side.of(device)) for device in range(count))

    @property
    def held_bytes(self) -> int:
        """The adapters that devices have sent in this round [bytes]."""
        return sum(row.nbytes for row, _ in self._adapters.values() if row is not None)

    def waiting(self, device: int, message: Activation | Held) -> Waiting:
        """How much there is to compute for a micro-batch. Raises PacketError: of no such shape."""
        samples = tokens = 0
        if isinstance(message, Activation) and (message.packet or self._held is None):
            samples, tokens, _ = self._shape(message)
        if self._held is not None:
            samples = len(self._held.micro_batch(device, message.position))
            tokens = self._held.tokens(device, message.position, tokens)
        return Waiting(device, samples, tokens)

    def asks(self, device: int, round_number: int) -> Asks | None:
        """What a device is asked for in a round; None: everything."""
        return None if self._held is None else self._held.asks(device, round_number)

    def know(self, device: int, samples: OwnSamples) -> None:
        """A device says what it has. Raises PacketError: it had other samples."""
        if self._held is not None:
            self._held.know(device, samples)

    def train(self, batch: Sequence[tuple[int, Activation | Held]]) -> list[bytes]:
        """Forward and backward of a micro-batch of each of these devices in one pass, and the
        gradients' packets: empty where the devices' part is frozen. Each is what it would be alone:
        to the bit if it is alone, else but for rounding.

        The server-side adapters whose mini-batch this ends step in `step`, before anything else is
        computed. Raises PacketError for anything that no device may send, ModelError for what the
        part does not take.
        """
        self.step()
        arrived = [self._read(device, message) for device, message in batch]
        replies = server_batch(
            self._server.part,
            [own.load for own in arrived],
            returns_gradient=self._scheme.trains_device,
        )
        encoded = [self._encode(*own) for own in zip(batch, arrived, replies, strict=True)]
        # nothing fails from here on
        for (device, message), own, reply, outgoing in zip(
            batch, arrived, replies, encoded, strict=True
        ):
            self._side.collect((device,), reply.row_gradient[None])
            if message.micro.last:
                place, steps = message.position, self._local_steps[device]
                self._due[device] = self._training.rate_of(place.round, place.step, steps)
            self._lose(device, message, reply.loss)
            self._keep(device, message, own)
            if own.came is not None:
                samples, tokens, width = own.came.tensor.shape
                lengths = None if own.load.lengths is None else own.came.lengths
                self._plain_bytes += int(raw_bytes((samples, tokens, width), lengths))
                self._streams[device, Direction.UP] = Stream(receiver=own.receiver)
            if outgoing is not None:
                self._streams[device, Direction.DOWN] = Stream(sender=outgoing.state)
        return [b"" if outgoing is None else outgoing.packet for outgoing in encoded]

    def _keep(self, device: int, message: Activation | Held, own: "_Read") -> None:
        """Hold what came of a micro-batch."""
        if self._held is None:
            return
        coded, place = None, message.position
        if own.came is not None and isinstance(message, Activation):
            where, before = (place.step, place.micro), self._end(device, Direction.UP)
            shape = self._shape(message)
            coded = Coded(
                device, where, message.samples, shape, message.packet, message.labels, before
            )
        self._held.add(coded, own.came, len(own.load.labels))

    def step(self) -> None:
        """Let the server-side adapters step whose mini-batch has ended: apart from `train`, so that
        gradients need not wait for it."""
        self._side.step(self._due)
        self._due.clear()

    def store_adapter(self, device: int, message: Adapter) -> None:
        """Keep a device's adapter until the round closes. Raises PacketError: it is none."""
        labels, row = self._labels_of(message), None
        if message.packet and not self._scheme.trains_device:
            raise PacketError("an adapter of a part that is frozen")
        if message.packet or not (self._keeps or not self._scheme.trains_device):
            row = self._rows.decode(message.packet, self._state.device.of(device))
        self._adapters[device] = row, float(message.weight.samples)
        self.samples[device] = message.weight.samples
        self._labels[device] = labels

    @property
    def shares(self) -> tuple[DeviceShare, ...]:
        """What devices say of their samples."""
        return tuple(map(DeviceShare, self.samples, self._labels))

    def _labels_of(self, message: Adapter) -> tuple[int, ...] | None:
        weight = message.weight
        if weight.labels is None:
            return None
        if len(weight.labels) > self._training.classes or sum(weight.labels) != weight.samples:
            raise PacketError(
                f"{len(weight.labels)} counts of labels that sum to {sum(weight.labels)}, for"
                f" {self._training.classes} classes and {weight.samples} samples"
            )
        return tuple(weight.labels)

    def renew(self, device: int) -> None:
        """Void what a device has done of the round, and what its streams and optimiser hold."""
        self.step()
        self._side.renew(device, self._state.server.of(device))
        self._adapters.pop(device, None)
        self._losses.pop(device, None)
        for direction in Direction:
            self._streams.pop((device, direction), None)

    def merge(
        self, made: Sequence[int], measured: MeasuredRound | None = None, passed_s: float = 0.0
    ) -> tuple[int, ...]:
        """Close the round with the devices in `made`, weighted as the rule says; open the next one.
        `measured`: how long it took, if that was seen; else it took `passed_s`.

        Gives those that were merged: not one whose adapter no training can have made. Where that
        leaves nobody, what is merged stays as it was. Who was left out, or did not make the round,
        begins the next one anew. Raises RunError for adapters that are not finite; the round is
        then as it was. Source: SFT eqs. (7), (8), over those who made it.
        """
        self.step()
        refused, came = self._impossible(made), tuple(made)
        made = tuple(device for device in came if device not in refused)
        # a rate that is too high takes all of them beyond any number: that is for the user to mend
        device_row, server_row = self._next_rows(made or came)
        if not (device_row.isfinite().all() and server_row.isfinite().all()):
            raise RunError(
                f"round {self._state.round + 1} diverged: its aggregated adapters are not finite;"
                " the state after the round before is kept, and resuming from it diverges again."
                " Start a new run with a lower optimizer.learning_rate"
            )
        if not made:
            device_row, server_row = self._next_rows(())
        self.refused = refused
        self.train_loss, self.plain_bytes = self._mean_loss(made or came), self._plain_bytes
        if self._held is not None:
            self.cache = self._held.close_round()
        for device in set(range(len(self._local_steps))) - set(made):
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
                device=AdapterState(device_row, {}, self._coded),
                server=AdapterState(server_row, self._side.optimizer),
                streams=dict(self._streams),
            )
        )
        return made

    def _impossible(self, made: Sequence[int]) -> dict[int, str]:
        """The devices whose adapters, in either part, no training can have made, and why."""
        merging, number = self._training.merging, self._state.round + 1
        found: dict[int, str] = {}
        above, below = self._server.part.adapted.layout, self._rows.layout
        for layout, before, rows, merges in (
            (below, self._state.device, self._sent(made), merging.device),
            (
                above,
                self._state.server,
                dict(zip(made, self._side.gather(made), strict=True)),
                merging.server,
            ),
        ):
            if not merges or not rows:
                continue
            move = _SLACK * self._training.rule(layout).most_move
            # a codec of adapters adds what it lost of the round before
            most = [
                move * max(self._rates(each, device) for each in (max(number - 1, 1), number))
                for device in rows
            ]
            over = impossible(
                to_device(torch.stack(list(rows.values())), HOST),
                to_device(before.row, HOST),
                most_move=most,
                times_median=self._rule.times_median,
            )
            found |= {tuple(rows)[place]: why for place, why in over.items()}
        return found

    def _rates(self, number: int, device: int) -> float:
        """The sum of a device's learning rates in a round."""
        steps = self._local_steps[device]
        return sum(self._training.rate_of(number, step, steps) for step in range(steps))

    def _sent(self, made: Sequence[int]) -> dict[int, Tensor]:
        """The device-side adapters of these devices, of those that have sent one."""
        came = {device: self._adapters.get(device, (None, 0.0))[0] for device in made}
        return {device: row for device, row in came.items() if row is not None}

    def _next_rows(self, made: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Both sides' adapters after the round: merged, or each device's own. Who has not made the
        round, or has not sent its own, is known by what it had before."""
        count, merging, before = len(self._local_steps), self._training.merging, self._state
        weights = [self._weight(device) for device in made]
        sent = self._sent(made)  # in the order of the weights
        if not self._scheme.trains_device:  # what devices have
            device_row = before.device.row if self._opening is None else self._opening.received
        elif merging.device and not made:
            device_row = before.device.row.clone()
        elif merging.device:
            aggregation = self._server.aggregation.since(before.device.row)
            device_row = merged(aggregation, torch.stack(list(sent.values())), weights)
        else:
            device_row = torch.stack(
                [sent.get(device, before.device.of(device)) for device in range(count)]
            )
        if merging.server and not made:
            server_row = before.server.row.clone()
        elif merging.server:
            aggregation = self._server.aggregation.since(before.server.row)
            server_row = merged(aggregation, self._side.gather(made), weights)
        else:
            server_row = self._side.rows.clone()
            for device in set(range(count)) - set(made):
                server_row[device] = to_device(before.server.of(device), server_row.device)
        return device_row, server_row

    def _weight(self, device: int) -> float:
        """The samples of a device that has made the round, or that the server made it for."""
        if device in self._adapters:
            return self._rule.weight(self._adapters[device][1])
        assert self._held is not None, "who makes a round says what it has"
        return self._rule.weight(float(self._held.count(device)))

    def warnings(self, merged: Sequence[int]) -> list[str]:
        """What an operator should know of the round that closed with these devices: whose adapter
        was not merged, and, once, who of three or more weighs more than all others together."""
        number = self._state.round
        texts = [
            f"device {device}: its adapter of round {number} is not merged: {why}"
            for device, why in self.refused.items()
        ]
        weights = {device: self._rule.weight(float(self.samples[device])) for device in merged}
        total = sum(weights.values())
        for device, own in weights.items():
            if len(merged) > 2 and 2 * own > total and device not in self._heavy:
                self._heavy.add(device)
                texts.append(
                    f"device {device} says it has {self.samples[device]} samples, more than all"
                    " others together: the adapter will be mostly its own; net.weights and"
                    " net.most_samples bound that"
                )
        return texts

    @property
    def _keeps(self) -> bool:
        """Whether devices keep their adapters as the round ends."""
        merges = self._training.merging.device
        return not (merges or self._server.evaluation.due(self._state.round + 1))

    @property
    def _coded(self) -> dict[str, Tensor]:
        """What the next round's adapter is a change of."""
        merges = self._training.merging.device and self._scheme.trains_device
        if self._opening is None or self._rows.codec is None or not merges:
            return {}
        return {HELD: self._opening.received}

    def _start(self, state: RunState) -> None:
        self._state, device = state, state.device
        self._scheme = self._training.scheme_of(state.round + 1)
        self._opening = (
            self._rows.opening(device.row, device.coded.get(HELD)) if device.row.ndim == 1 else None
        )
        self._side = AdapterBank(
            state.server,
            range(len(self._local_steps)),
            self._training.rule(self._server.part.adapted.layout),
            shared=False,
            device=self._server.part.adapted.device,
            proximal_mu=self._training.merging.proximal_mu,
        )
        self._streams = dict(state.streams)
        if self._held is not None:
            self._held.begin_round(state.round + 1)
        # learning rates by device
        self._due: dict[int, float] = {}
        self._adapters: dict[int, tuple[Tensor | None, float]] = {}
        # each local step's, as the parts of its micro-batches; read when the round closes
        self._losses: dict[int, list[list[Tensor]]] = {}
        self._plain_bytes = 0

    def _lose(self, device: int, message: Activation | Held, loss: Tensor) -> None:
        """Enter a micro-batch's part of its local step's loss."""
        steps = self._losses.setdefault(device, [])
        if message.position.micro == 0:
            steps.append([])
        steps[-1].append(loss)

    def _mean_loss(self, made: Sequence[int]) -> float:
        steps = [step for device in made for step in self._losses[device]]
        losses: list[float] = [sum(torch.stack(step).cpu().tolist()) for step in steps]
        return sum(losses) / len(losses)

    def _read(self, device: int, message: Activation | Held) -> "_Read":
        """A micro-batch: what came of it, with what is held."""
        training, place = self._training, message.position
        came: Served | None = None
        after = self._end(device, Direction.UP)
        samples: tuple[int, ...] = ()
        # of a micro-batch that is held nothing comes, though others of its mini-batch do
        if isinstance(message, Activation) and (message.packet or self._held is None):
            came, after = self._arrived(device, message)
            samples = message.samples
        served, weight, whole = came, message.micro.weight, samples
        if self._held is not None:
            served = self._held.serve(device, place, samples, came)
            whole = self._held.micro_batch(device, place)
            if isinstance(message, Held):
                weight = self._held.weight(device, place)
        assert served is not None
        load = ServerLoad(
            row=self._side.gather((device,))[0],
            activation=served.tensor,
            lengths=None if self._images else served.lengths,
            labels=torch.from_numpy(served.targets.labels),
            weight=weight,
            documents=served.targets.documents,
            draws=training.draws(place.round, device, place.step, whole),
        )
        return _Read(load, after, came)

    @property
    def _images(self) -> bool:
        return self._training.task == "image-classification"

    def _arrived(self, device: int, message: Activation) -> tuple[Served, CodecState]:
        """The activation and its labels, if they are such as the run may have."""
        training, shape = self._training, self._shape(message)
        codec = for_device(training.codecs.up, self._server.part.adapted.device)
        arrived = codec.decode(message.packet, shape, self._end(device, Direction.UP))
        if not self._images and min(arrived.lengths) < 1:
            raise PacketError("an activation of a text without a token")
        labelled = shape[:2] if training.task == "causal-lm" else shape[:1]
        targets = decode_targets(message.labels, labelled, arrived.lengths, training.classes)
        return Served(arrived.tensor, arrived.lengths, targets), arrived.state

    def _encode(
        self, of: tuple[int, Activation | Held], arrived: "_Read", reply: ServerReply
    ) -> Outgoing | None:
        """A device's gradient as it leaves, if there is one."""
        device, message = of
        if reply.gradient is None or isinstance(message, Held):
            return None
        training, place = self._training, message.position
        key = (place.round, device, place.step, place.micro, Direction.DOWN)
        load = Load(reply.gradient, arrived.load.lengths, message.samples)
        codec = for_device(training.codecs.down, self._server.part.adapted.device)
        return encode(codec, load, training.seed, key, self._end(device, Direction.DOWN))

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
