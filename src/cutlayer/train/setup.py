"""All that a run trains with, put together by the caller: nothing here is looked up or read."""

from collections.abc import Callable
from dataclasses import dataclass

from cutlayer.codec.presets import CodecPair
from cutlayer.cost.flops import Accounting
from cutlayer.data.batches import BatchMaker, BatchPlan
from cutlayer.data.samples import Samples
from cutlayer.model.optimizer import Optimizer
from cutlayer.model.split import DevicePart, ServerPart
from cutlayer.schemes.scheme import Scheme
from cutlayer.spec import ModelSpec, Task
from cutlayer.timeline.work import DeviceRates


@dataclass(frozen=True, eq=False)
class LocalWork:
    """One virtual device: its samples in order, its local steps a round, its rates and memory."""

    plan: BatchPlan
    local_steps: int
    rates: DeviceRates
    memory_bytes: int | None

    @property
    def samples(self) -> int:
        """How many samples it holds: its weight in FedAvg."""
        return len(self.plan.samples)


@dataclass(frozen=True, eq=False)
class Setup:
    """The parts, the data, the rules. `group` devices share one pass through a part.

    `learning_rate` of round t (1, 2, ...) is `learning_rate * decay^(t-1)`.
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
    train: Samples
    test: Samples
    batches: BatchMaker
    classes: int
    accounting: Accounting
    group: int
    seed: int
    clock: Callable[[], float]
