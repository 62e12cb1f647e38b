"""Some devices of a round in tensors: the scheme's steps, for a group of devices at a time.

A cohort begins with what the round's state has of its devices, and ends with what the round makes
the next one of. Nothing of it depends on another cohort, so it is played anywhere. Knows who comes
when and where adapters go; neither shares of the bandwidth nor seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from cutlayer.codec.adapters import AdapterCodecs
from cutlayer.codec.codec import Direction, Sent, Streams
from cutlayer.data.samples import Batch
from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.lora import Draws
from cutlayer.model.optimizer import FedAvg
from cutlayer.model.split import device_forward, frozen_forward
from cutlayer.rounds.batching import ALONE, ServerBatch
from cutlayer.rounds.costs import StepFlops, recomputed_flops
from cutlayer.rounds.schemes import DeviceOrder, Phase, Place, ServerOrder, Step
from cutlayer.spec import IGNORED_LABEL, MiniBatch
from cutlayer.training.activation_cache import ActivationCache, Coded
from cutlayer.training.adapter_rows import RowCodec, RowExchange
from cutlayer.training.exchange import (
    BroadcastPart,
    Exchange,
    MicroBatch,
    OwnMicroBatch,
    RoundCosts,
    group_inputs,
    held_micro_batches,
    micro_batches,
    pieces_of,
    send_labels,
)
from cutlayer.training.server_batch import (
    Served,
    ServerLoad,
    all_draws,
    joined,
    serve,
    server_pass,
    stack,
)
from cutlayer.training.state import AdapterBank, AdapterState, DeviceSide, Setup

# by number
Devices = tuple[int, ...]


@final
class Actions:
    """The phases of round `index`; packets pass `exchange`, costs go to `round_costs`. Adapters do
    not step: gradients collect in the rows until the mini-batch is through. `losses`: each
    micro-batch's part of its mini-batch's mean loss [nat], and whose; who reads one waits for it.
    """

    def __init__(
        self,
        setup: Setup,
        index: int,
        exchange: Exchange,
        round_costs: RoundCosts,
        cache: ActivationCache | None,
    ) -> None:
        self._setup = setup
        self._training = setup.training
        self._server = setup.server
        self._simulation = setup.simulation
        self._index = index
        self._exchange = exchange
        self._round_costs = round_costs
        self._scheme = setup.training.scheme_of(index)
        by_arrival = self._scheme.server is ServerOrder.ARRIVAL
        self._batching = setup.simulation.rules.batching if by_arrival else ALONE
        self._texts = setup.training.task != "image-classification"
        self._cache = cache
        self.losses: list[tuple[Devices, Tensor]] = []

    def do(self, step: Step, micro: MicroBatch) -> None:
        """One step of a scheme's local part."""
        # no table of bound methods: it would be a cycle, and keep a round's tensors alive
        match step.phase:
            case Phase.DEVICE_FORWARD:
                self._device_forward(step, micro)
            case Phase.ACTIVATION_UP:
                self._activation_up(step, micro)
            case Phase.SERVER_COMPUTE:
                self._server_compute(step, micro)
            case Phase.UPPER_COMPUTE:
                self._upper_compute(step, micro)
            case Phase.GRADIENT_DOWN:
                self._gradient_down(step, micro)
            case Phase.DEVICE_BACKWARD:
                self._device_backward(step, micro)
            case other:
                raise ValueError(f"{other} is no step of a mini-batch")

    def _device_forward(self, step: Step, micro: MicroBatch) -> None:
        if (group := micro.group) is not None:
            given = (self._server.device_part, micro.device_rows, group.sizes, group.inputs)
            if self._scheme.trains_device:
                draws = all_draws(self._draws(micro))
                micro.forwarded = device_forward(*given, self._training.activation_memory, draws)
            else:
                micro.forwarded = frozen_forward(*given)
        self._compute(step, micro, lambda flops, _: flops.device_forward)

    def _draws(self, micro: MicroBatch) -> list[Draws]:
        """Each device's, of its micro-batch's samples."""
        return [
            self._training.draws(self._index, device, micro.number, own.samples)
            for device, own in zip(micro.devices, micro.own, strict=True)
        ]

    def _activation_up(self, step: Step, micro: MicroBatch) -> None:
        for place, device in enumerate(micro.devices):
            own = micro.own[place]
            if own.batch is None:
                self._round_costs.send(device, step, {})
                micro.served.append(self._held(device, own, None))
            else:
                micro.served.append(self._send_up(step, micro, place, own.batch))
        if micro.forwarded is not None:
            micro.forwarded.release()  # it is on its way: backward does not need it

    def _send_up(self, step: Step, micro: MicroBatch, place: int, batch: Batch) -> Served:
        """One device's activations and labels, as the server has them then."""
        device, load = micro.devices[place], micro.load(micro.pending.activation, place)
        received = self._exchange.send(
            load,
            (self._index, device, micro.number, micro.micro, Direction.UP),
            self._server.part.adapted.device,
        )
        targets, labels = send_labels(batch, received.lengths, self._training.classes)
        sent = Sent(len(labels), len(labels))
        self._round_costs.send(device, step, {"activation": received.sent, "labels": sent})
        came = Served(received.tensor, received.lengths, targets)
        if self._cache is None:
            return came
        served = self._held(device, micro.own[place], came)
        samples, token, width = load.tensor.shape
        shape, where = (samples, token, width), (micro.number, micro.micro)
        coded = Coded(device, where, load.samples, shape, received.packet, labels, received.before)
        self._cache.add(coded, came)
        return served

    def _held(self, device: int, own: OwnMicroBatch, came: Served | None) -> Served:
        """A micro-batch of a server that holds what did not come of it."""
        assert self._cache is not None, "without a cache every device sends"
        self._cache.hit(len(own.samples) - len(own.forwarded))
        return self._cache.serve(device, own.samples, came)

    def _server_compute(self, step: Step, micro: MicroBatch) -> None:
        if self._batching.batch is ServerBatch.ARRIVALS:
            self._serve_together(micro)
        else:
            whole = joined(micro.served)
            labels = torch.from_numpy(whole.targets.labels)
            lengths = whole.lengths if self._texts else None
            self._upper(micro, whole.tensor, lengths, labels, whole.targets.documents)
        self._compute(step, micro, lambda flops, _: flops.server)

    def _serve_together(self, micro: MicroBatch) -> None:
        """The group's micro-batches, as a server takes those that came at one moment."""
        loads = [
            ServerLoad(
                row=micro.server_rows[place],
                activation=served.tensor,
                lengths=served.lengths if self._texts else None,
                labels=torch.from_numpy(served.targets.labels),
                weight=weight,
                documents=served.targets.documents,
                draws=draws,
            )
            for place, (served, weight, draws) in enumerate(
                zip(micro.served, micro.weights, self._draws(micro), strict=True)
            )
        ]
        replies = serve(
            self._server.part,
            self._batching,
            micro.devices,
            loads,
            returns_gradient=self._scheme.trains_device,
        )
        micro.server_rows.grad = torch.stack([reply.row_gradient for reply in replies])
        gradients = [reply.gradient for reply in replies if reply.gradient is not None]
        micro.gradient = stack(gradients) if gradients else None
        self.losses.append((micro.devices, torch.stack([reply.loss for reply in replies])))

    def _upper_compute(self, step: Step, micro: MicroBatch) -> None:
        """The server part's work on the device itself: nothing is sent."""
        group, batches = micro.group, [own.batch for own in micro.own if own.batch is not None]
        assert group is not None
        labels = stack([batch.labels for batch in batches], fill=IGNORED_LABEL)
        self._upper(micro, micro.pending.activation, group.lengths, labels, group.documents)
        self._compute(step, micro, lambda flops, _: flops.server)

    def _upper(
        self,
        micro: MicroBatch,
        activation: Tensor,
        lengths: tuple[int, ...] | None,
        labels: Tensor,
        documents: Sequence[Sequence[int]] | None,
    ) -> None:
        """Forward and backward through the blocks above the cut."""
        result = server_pass(
            self._server.part,
            micro.server_rows,
            [len(own.samples) for own in micro.own],
            activation,
            lengths,
            labels,
            micro.weights,
            documents,
            all_draws(self._draws(micro)),
            returns_gradient=self._scheme.trains_device,
        )
        micro.gradient = result.gradient
        self.losses.append((micro.devices, result.losses))

    def _gradient_down(self, step: Step, micro: MicroBatch) -> None:
        assert micro.gradient is not None
        received = []
        for place, device in enumerate(micro.devices):
            key = (self._index, device, micro.number, micro.micro, Direction.DOWN)
            load = micro.load(micro.gradient, place)
            part = self._exchange.send(load, key, self._server.device_part.adapted.device)
            self._round_costs.send(device, step, {"gradient": part.sent})
            received.append(part.tensor)
        micro.gradient = stack(received)

    def _device_backward(self, step: Step, micro: MicroBatch) -> None:
        assert micro.gradient is not None
        micro.pending.backward(micro.gradient)
        activation_memory, model = self._training.activation_memory, self._simulation.model
        self._compute(
            step,
            micro,
            lambda flops, shape: (
                flops.device_backward + recomputed_flops(model, shape, flops, activation_memory)
            ),
        )

    def _compute(
        self, step: Step, micro: MicroBatch, part: Callable[[StepFlops, MiniBatch], float]
    ) -> None:
        """Enter one computation of every device of the group."""
        simulation, trained = self._simulation, self._scheme.trained
        cut = self._server.device_part.cut
        frozen = not self._scheme.trains_device and step.place is Place.SERVER
        for place, device in enumerate(micro.devices):
            model = self._setup.model_of(device)
            if frozen:
                model = model.frozen_below(cut)
            if step.place is Place.SERVER:
                shape = micro.server_shape(place)
            elif micro.own[place].batch is not None:
                shape = micro.device_shape(place)
            else:
                self._round_costs.compute(device, step, 0.0)
                continue
            flops = simulation.accounting.flops(model, cut, shape, trained)
            self._round_costs.compute(device, step, part(flops, shape), shape)


StepDone = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class CohortStart:
    """What the cohort of `devices` begins round `index` with: of each side and of the codecs what
    is of these devices, in their order.

    `began`: of each device of the round, of this cohort or not, the last round that it began (0:
    none), by which all cohorts know what is broadcast. `weights`: the frozen part that those hear
    that have begun none (None: they have it). `summed`: what is merged comes back as one sum,
    weighted by samples, else as rows. `consumes`: the optimisers' states are changed in place.
    """

    index: int
    devices: Devices
    began: Mapping[int, int]
    device: AdapterState
    server: AdapterState
    streams: Streams
    weights: Sent | None
    summed: bool
    consumes: bool = False


@dataclass(frozen=True, eq=False)
class CohortEnd:
    """What became of a cohort: of each side a row for each device, in their order, or, of what is
    merged, their sum in double precision; the sum of its mini-batches' mean losses [nat], and each
    device's part of it."""

    device: AdapterState
    server: AdapterState
    streams: Streams
    loss: float
    loss_of: Mapping[int, float]
    costs: RoundCosts


@final
class Cohort:
    """Plays what `start` is of; `cache`: what the server holds of samples, for a scheme that caches
    them."""

    def __init__(
        self, setup: Setup, start: CohortStart, cache: ActivationCache | None = None
    ) -> None:
        training = setup.training
        self._setup = setup
        self._start = start
        self._devices = start.devices
        self._index = start.index
        self._scheme = training.scheme_of(self._index)
        self._leaves = setup.who_leaves(self._index, self._devices)
        self._steps = {n: self._leaves.get(n, setup.devices[n].local_steps) for n in self._devices}
        below, above = (part.adapted for part in setup.parts)
        codec, merging = training.adapter_codec, training.merging
        self._device_side, below_link = self._side(below, start.device, codec, merging.device)
        whole = None if self._scheme.splits else codec
        self._server_side, above_link = self._side(
            above, start.server, whole, merging.server, shared=self._scheme.shared_server
        )
        self._links = {self._device_side: below_link, self._server_side: above_link}
        self._exchange = Exchange(training.codecs, training.seed, start.streams)
        self._round_costs = RoundCosts(self._scheme, self._steps, training.micro_batches)
        assert self._scheme.cached == (cache is not None), "what caches has a cache"
        self._cache = cache
        self._actions = Actions(setup, self._index, self._exchange, self._round_costs, cache)

    def _side(
        self,
        part: AdaptedModel,
        state: AdapterState,
        codec: AdapterCodecs | None,
        merges: bool,
        shared: bool = False,
    ) -> tuple[AdapterBank, RowExchange]:
        """One side's rows, and the ends of the links that they take."""
        training, devices = self._setup.training, self._devices
        handed_on = self._scheme.devices is DeviceOrder.IN_TURN
        rows, ranks = RowCodec(codec, part.layout), training.ranks
        link = RowExchange(rows, state, devices, merges=merges or handed_on, ranks=ranks)
        bank = AdapterBank(
            replace(state, row=link.begins_with),
            devices,
            training.rule(part.layout),
            shared=shared,
            device=part.device,
            proximal_mu=training.merging.proximal_mu,
            own=training.own(part.layout, devices),
            consumes=self._start.consumes,
        )
        return bank, link

    def play(self, step_done: StepDone = lambda done, total: None) -> CohortEnd:
        """Open, train, close. `step_done(done, total)` is called as local steps end."""
        done, total = 0, sum(self._steps.values())
        for turn in self._turns():
            for step in self._scheme.opening:
                self._exchange_rows(step, turn)
            for number, devices in self._local_steps(turn):
                self._local_step(number, devices)
                done += len(devices)
                step_done(done, total)
            for step in self._scheme.closing:
                self._exchange_rows(step, turn)
        return self._end()

    def _turns(self) -> list[Devices]:
        """Devices that go through the round together, turn by turn."""
        if self._scheme.devices is DeviceOrder.IN_TURN:
            return [(device,) for device in self._devices]
        return [self._devices]

    def _local_steps(self, turn: Devices) -> Iterator[tuple[int, Devices]]:
        """Local step by local step, the devices that still have it to do, a group at a time.

        A shared server adapter is stepped by one device after the other.
        """
        size = 1 if self._scheme.shared_server else self._setup.simulation.group
        for number in range(max(self._steps[device] for device in turn)):
            active = [device for device in turn if number < self._steps[device]]
            for at in range(0, len(active), size):
                yield number, tuple(active[at : at + size])

    def _local_step(self, number: int, devices: Devices) -> None:
        """One mini-batch of each device, micro-batch by micro-batch; then both sides step."""
        count = self._setup.training.micro_batches
        parts = [self._own_part(self._setup.devices[n], number, count) for n in devices]
        for micro in range(count):
            own = {place: part for place in range(len(devices)) if (part := parts[place][micro])}
            for place in set(range(len(devices))) - set(own):
                self._round_costs.nothing(devices[place])
            if own:
                self._micro_batch(number, micro, devices, own)
        rate_of = self._setup.training.rate_of
        steps = {n: self._setup.devices[n].local_steps for n in devices}
        rates = {n: rate_of(self._index, number, steps[n]) for n in devices}
        for side in self._trained_sides:
            side.step(rates)

    def _own_part(self, device: DeviceSide, number: int, count: int) -> list[OwnMicroBatch | None]:
        """One device's mini-batch of a local step."""
        if self._cache is None:
            return micro_batches(device, self._index, number, count)
        pieces = pieces_of(device.indices(self._index, number), count)
        if any(self._cache.missing(device.number, piece) for piece in pieces):
            return micro_batches(device, self._index, number, count, self._cache.missing)
        served = [self._cache.rows(device.number, piece) for piece in pieces]
        held = held_micro_batches(pieces, [own.targets.labels for own in served])
        return held + [None] * (count - len(held))

    def _micro_batch(
        self, number: int, micro: int, devices: Devices, own: dict[int, OwnMicroBatch]
    ) -> None:
        """The scheme's local steps for the devices at the places in `own`."""
        busy = tuple(devices[place] for place in own)
        batches = {
            devices[place]: part.batch for place, part in own.items() if part.batch is not None
        }
        part = MicroBatch(
            number=number,
            micro=micro,
            devices=busy,
            own=list(own.values()),
            group=group_inputs(list(batches.values())) if batches else None,
            device_rows=self._device_side.gather(tuple(batches)).requires_grad_(
                self._scheme.trains_device
            ),
            server_rows=self._server_side.gather(busy).requires_grad_(),
        )
        for step in self._scheme.local:
            self._actions.do(step, part)
        for side, rows in zip(self._both_sides, (part.device_rows, part.server_rows), strict=True):
            if side in self._trained_sides:
                assert rows.grad is not None
                side.collect(busy, rows.grad)

    @property
    def _both_sides(self) -> tuple[AdapterBank, AdapterBank]:
        return self._device_side, self._server_side

    @property
    def _trained_sides(self) -> tuple[AdapterBank, ...]:
        return self._both_sides if self._scheme.trains_device else (self._server_side,)

    def _exchanged(self, *, all_of_them: bool) -> tuple[AdapterBank, ...]:
        """The adapters that devices hold, of their part or of the whole model, if they have any;
        unless it is `all_of_them`, those that are merged."""
        merging = self._setup.training.merging
        sides = tuple(zip(self._both_sides, (merging.device, merging.server), strict=True))
        held = sides[:1] if self._scheme.splits else sides
        return tuple(
            side for side, merged_too in held if side.rows.shape[1] and (merged_too or all_of_them)
        )

    def _exchange_rows(self, step: Step, turn: Devices) -> None:
        """One step of a scheme's opening or closing."""
        match step.phase:
            case Phase.MODEL_DISTRIBUTION:
                self._distribute(step, turn)
            case Phase.ADAPTER_DOWN:
                self._hand_over(step, turn)
            case Phase.ADAPTER_UP:
                self._upload(step, turn)
            case other:
                raise ValueError(f"{other} is no step of an opening or closing")

    def _distribute(self, step: Step, turn: Devices) -> None:
        """What all devices hear: the frozen part once, and the merged adapters unless each device
        is handed those of the one before. Adapters that are frozen too, once as well."""
        if self._setup.simulation.population is not None:
            self._distribute_to_some(step, turn)
            return
        parts: list[BroadcastPart] = []
        if self._start.weights is not None and self._devices[0] in turn:
            parts.append(BroadcastPart("weights", self._start.weights, turn))
        trained = self._setup.training.scheme_of(max(self._index - 1, 1)).trains_device
        sides = self._exchanged(all_of_them=self._index == 1)  # all begin with the same
        if self._scheme.devices is DeviceOrder.PARALLEL and sides and trained:
            rows = [self._links[side].begins_with for side in sides]
            parts += self._bring_down(sides, rows, to=turn)
        self._round_costs.broadcast(step, turn, parts)

    def _distribute_to_some(self, step: Step, turn: Devices) -> None:
        """Of a population: the frozen part to those in their first round, the merged adapters to
        those that have others, and where each has its own those that all begin with."""
        began, weights = self._start.began, self._start.weights
        heard: list[BroadcastPart] = []
        new = tuple(n for n, last in began.items() if not last)
        parallel = self._scheme.devices is DeviceOrder.PARALLEL
        if weights is not None and new and (parallel or new[0] in turn):
            heard.append(BroadcastPart("weights", weights, new))
        if parallel:
            merged_sides = self._exchanged(all_of_them=False)
            change = self._setup.training.last_change(self._index)
            to = tuple(n for n, last in began.items() if last < change)
            for side in self._exchanged(all_of_them=True):
                hear = to if side in merged_sides else new
                if hear:
                    row = side.row(next((n for n in hear if n in turn), turn[0]))
                    holders = [n for n in hear if began[n] == self._index - 1]
                    heard += self._bring_down((side,), (row,), to=hear, holders=holders)
        own = set(turn)
        parts = [replace(one, devices=tuple(n for n in one.devices if n in own)) for one in heard]
        self._round_costs.broadcast(step, turn, parts)

    def _hand_over(self, step: Step, turn: Devices) -> None:
        """Each device takes over the adapters of the one before it, the first one the last
        round's."""
        for device in turn:
            sides = self._exchanged(all_of_them=True)
            before = self._devices[max(self._devices.index(device) - 1, 0)]
            rows = [side.row(before) for side in sides]
            parts = self._bring_down(sides, rows, to=(device,), link=f".{device}")
            sent = sum((part.sent for part in parts), Sent(0, 0))
            self._round_costs.send(device, step, {"adapter_down": sent})

    def _upload(self, step: Step, turn: Devices) -> None:
        # what is not merged is sent where it is evaluated and kept
        sides = self._exchanged(all_of_them=self._setup.server.evaluation.due(self._index))
        for device in turn:
            sent = Sent(0, 0)
            for side in () if device in self._leaves else sides:
                link = self._links[side]
                row, own = link.up(device, side.row(device))
                sent += own
                if link.merges:  # else the device goes on from what it has
                    side.put((device,), row)
            self._round_costs.send(device, step, {"adapter_up": sent})

    def _bring_down(
        self,
        sides: Sequence[AdapterBank],
        rows: Sequence[Tensor],
        *,
        to: Devices,
        link: str = "",
        holders: Sequence[int] | None = None,
    ) -> list[BroadcastPart]:
        """The server's rows of some sides, to the devices in `to`."""
        parts = []
        for side, row in zip(sides, rows, strict=True):
            for heard in self._links[side].down(row, to, link, holders):
                side.begin([n for n in heard.devices if n in self._steps], heard.row)
                parts.append(BroadcastPart("adapter_down", heard.sent, heard.devices))
        return parts

    def _end(self) -> CohortEnd:
        merging, below = self._setup.training.merging, self._device_side
        if self._scheme.trains_device:
            device = self._ended(below, merges=merging.device)
        else:  # as they were
            device = self._links[below].frozen
        parts, loss_of = self._actions.losses, dict.fromkeys(self._devices, 0.0)
        whose = [device for devices, _ in parts for device in devices]
        # there are none where all have left before they did anything
        losses = torch.cat([own for _, own in parts]).cpu().tolist() if parts else []
        for number, loss in zip(whose, losses, strict=True):
            loss_of[number] += loss
        return CohortEnd(
            device=device,
            server=self._ended(self._server_side, merges=merging.server),
            streams=self._exchange.streams,
            loss=sum(losses),
            loss_of=loss_of,
            costs=self._round_costs,
        )

    def _ended(self, side: AdapterBank, *, merges: bool) -> AdapterState:
        """The side's adapters: each device's own, or what the last device left, or what is to be
        merged."""
        link = self._links[side]
        optimizer = side.optimizer if self._scheme.keeps_optimizer else {}
        if not merges:
            return replace(link.kept(side.rows), optimizer=optimizer)
        rows, aggregation = side.rows, self._setup.server.aggregation
        if self._scheme.devices is DeviceOrder.IN_TURN:
            rows = rows[-1:]
        elif self._start.summed and len(rows) == len(self._devices):
            assert isinstance(aggregation, FedAvg), "only that is a sum"
            weights = [float(self._setup.devices[n].samples) for n in self._devices]
            rows = aggregation.sum_of(rows, weights)
        return AdapterState(rows, optimizer, link.coded)


# plays cohorts, in whatever order and wherever: what became of each, in the order given
PlayCohorts = Callable[[Sequence[CohortStart], StepDone], Sequence[CohortEnd]]
