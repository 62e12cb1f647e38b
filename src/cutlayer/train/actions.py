"""What each phase of a local step does to tensors, for one micro-batch of a group of devices.

Sides' adapters do not step here: gradients collect in the rows until the mini-batch is through.
"""

from collections.abc import Callable
from typing import final

from torch import Tensor

from cutlayer.cost.flops import StepFlops, recomputed_flops
from cutlayer.model.holding import hold
from cutlayer.schemes.scheme import Phase, Step
from cutlayer.spec import IGNORED_LABEL, MiniBatch
from cutlayer.train.exchange import Direction, Exchange, Load, send_labels
from cutlayer.train.inputs import stack
from cutlayer.train.ledger import Ledger
from cutlayer.train.micro_batch import MicroBatch
from cutlayer.train.server_pass import server_pass
from cutlayer.train.setup import Setup


@final
class Actions:
    """The phases of round `index`; packets pass `exchange`, costs go to `ledger`.

    `losses` collects each micro-batch's part of its mini-batch's mean loss [nat].
    """

    def __init__(self, setup: Setup, index: int, exchange: Exchange, ledger: Ledger) -> None:
        self._setup = setup
        self._index = index
        self._exchange = exchange
        self._ledger = ledger
        self.losses: list[float] = []

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
        micro.pending = hold(
            self._setup.device_part,
            micro.device_rows,
            micro.group.sizes,
            micro.group.inputs,
            self._setup.holding,
        )
        self._compute(step, micro, lambda flops, _: flops.device_forward)

    def _activation_up(self, step: Step, micro: MicroBatch) -> None:
        labels = []
        for place, device in enumerate(micro.devices):
            batch = micro.batches[place]
            received = self._exchange.send(
                self._load(micro, micro.held.activation, place),
                (self._index, device, micro.number, micro.micro, Direction.UP),
            )
            known, sent = send_labels(batch.labels, received.lengths, self._setup.classes)
            labels.append(known)
            micro.received.append(received)
            self._ledger.send(device, step, {"activation": received.sent, "labels": sent})
        micro.labels = stack(labels, fill=IGNORED_LABEL)
        micro.held.release()  # it is on its way: backward does not need it

    def _server_compute(self, step: Step, micro: MicroBatch) -> None:
        activation = stack([part.tensor for part in micro.received])
        self._upper(micro, activation, micro.received_lengths)
        self._compute(step, micro, lambda flops, _: flops.server)

    def _upper_compute(self, step: Step, micro: MicroBatch) -> None:
        """The server part's work on the device itself: nothing is sent."""
        micro.labels = stack([batch.labels for batch in micro.batches], fill=IGNORED_LABEL)
        self._upper(micro, micro.held.activation, micro.group.lengths)
        self._compute(step, micro, lambda flops, _: flops.server)

    def _upper(
        self, micro: MicroBatch, activation: Tensor, lengths: tuple[int, ...] | None
    ) -> None:
        """Forward and backward through the blocks above the cut."""
        assert micro.labels is not None
        passed = server_pass(
            self._setup.server_part,
            micro.server_rows,
            micro.group.sizes,
            activation,
            lengths,
            micro.labels,
            micro.weights,
        )
        micro.gradient = passed.gradient
        self.losses.extend(passed.losses)

    def _gradient_down(self, step: Step, micro: MicroBatch) -> None:
        assert micro.gradient is not None
        received = []
        for place, device in enumerate(micro.devices):
            key = (self._index, device, micro.number, micro.micro, Direction.DOWN)
            part = self._exchange.send(self._load(micro, micro.gradient, place), key)
            self._ledger.send(device, step, {"gradient": part.sent})
            received.append(part.tensor)
        micro.gradient = stack(received)

    def _device_backward(self, step: Step, micro: MicroBatch) -> None:
        assert micro.gradient is not None
        micro.held.backward(micro.gradient)
        holding, model = self._setup.holding, self._setup.model
        self._compute(
            step,
            micro,
            lambda flops, shape: (
                flops.device_backward + recomputed_flops(model, shape, flops, holding)
            ),
        )

    def _load(self, micro: MicroBatch, tensor: Tensor, place: int) -> Load:
        own = micro.rows_of(tensor, place)
        return Load(own, micro.batches[place].lengths, micro.samples[place])

    def _compute(
        self, step: Step, micro: MicroBatch, part: Callable[[StepFlops, MiniBatch], float]
    ) -> None:
        """Enter one computation of every device of the group."""
        setup = self._setup
        for place, device in enumerate(micro.devices):
            shape = micro.shape(place)
            flops = setup.accounting.flops(
                setup.model, setup.device_part.cut, shape, setup.scheme.trained
            )
            self._ledger.compute(device, step, part(flops, shape))
