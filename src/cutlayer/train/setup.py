"""All that a run trains with, put together by the caller: nothing here is looked up or read."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cutlayer.channel.rates import Channel
from cutlayer.codec.presets import CodecPair
from cutlayer.cost.accounting import Accounting
from cutlayer.data.batches import BatchMaker, BatchPlan
from cutlayer.data.samples import Samples
from cutlayer.model.optimizer import Optimizer
from cutlayer.model.split import DevicePart, ServerPart
from cutlayer.planner.allocation import Allocation
from cutlayer.schemes.scheme import DeviceOrder, Scheme
from cutlayer.spec import Holding, ModelSpec, Task
from cutlayer.timeline.rules import Rules


@dataclass(frozen=True, eq=False)
class LocalWork:
    """One virtual device: its samples in order, its local steps a round, its rate and memory."""

    plan: BatchPlan
    local_steps: int
    flops_per_s: float
    memory_bytes: int | None

    @property
    def samples(self) -> int:
        """How many samples it holds: its weight in FedAvg."""
        return len(self.plan.samples)

    def indices(self, round_number: int, step: int) -> Int[np.ndarray, " row"]:
        """The samples of local step `step` (0, 1, ...) of round `round_number` (1, 2, ...)."""
        return self.plan.indices((round_number - 1) * self.local_steps + step)


@dataclass(frozen=True, eq=False)
class Setup:
    """The parts, the data, the rules. `group` devices share one pass through a part.

    The learning rate of round t (1, 2, ...) is `learning_rate * decay^(t-1)`. A mini-batch goes in
    `micro_batches`, at most `in_flight` of them between forward and backward (None: all, where the
    scheme overlaps them); `holding` is how a device holds them meanwhile. `allocation` gives each
    round's shares of the band, which hold in both directions.
    """

    task: Task
    scheme: Scheme
    model: ModelSpec
    device_part: DevicePart
    server_part: ServerPart
    codecs: CodecPair
    optimizer: Optimizer
    learning_rate: float
    decay: float
    devices: tuple[LocalWork, ...]
    micro_batches: int
    in_flight: int | None
    holding: Holding
    channel: Channel
    allocation: Allocation
    server_flops_per_s: float
    rules: Rules
    train: Samples
    test: Samples
    batches: BatchMaker
    classes: int
    accounting: Accounting
    group: int
    seed: int
    clock: Callable[[], float]

    @property
    def parts(self) -> tuple[DevicePart, ServerPart]:
        """Both parts of the model."""
        return self.device_part, self.server_part

    @property
    def together(self) -> int:
        """The most devices that share one pass through a part."""
        in_turn = self.scheme.devices is DeviceOrder.IN_TURN or self.scheme.shared_server
        return 1 if in_turn else min(self.group, len(self.devices))

    @property
    def micro_batch_samples(self) -> int:
        """The most samples that a device's micro-batch may have: by the settings, so that it is the
        same where devices have samples that this side does not know."""
        return max(-(-each.plan.batch_size // self.micro_batches) for each in self.devices)

    def rate_of(self, round_number: int) -> float:
        """The learning rate of a round."""
        return self.learning_rate * self.decay ** (round_number - 1)
