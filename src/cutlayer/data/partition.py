"""Which samples are used, which device holds which of them, and which are in each mini-batch.

Every draw takes an explicit generator. Knows no tensors; `batches` makes the arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int, Int64

from cutlayer.data.samples import BatchMaker, DataSet, Samples
from cutlayer.errors import DataError
from cutlayer.spec import Task

# what another package's partition is called with, besides its options
PARTITION_ARGUMENTS = ("labels", "count", "rng")
_ORDER_STREAM = 0x0BA7C4  # keeps these permutations apart from other streams of the same seed
_DRAWS = 10  # tries for a Dirichlet draw that leaves no device short, before one is repaired


def draw_subset(
    labels: Int64[np.ndarray, " sample"],
    count: int,
    rng: np.random.Generator,
    balanced: bool = True,
) -> Int64[np.ndarray, " chosen"]:
    """Ascending indices of `count` samples, drawn without replacement.

    `balanced`: as even over the classes as they allow; a class too small gives all it has and
    the others make up for it. Otherwise any sample is as likely as another. Raises `DataError`
    when `count` is below 1 or above the number of samples.
    """
    if not 1 <= count <= len(labels):
        raise DataError(f"{count} samples asked for, there are {len(labels)}: ask for 1 to those")
    order = rng.permutation(len(labels))
    if balanced:
        # rank of each sample within its class, in shuffled order: low ranks first is even; among
        # equal ranks the shuffle decides which classes give one more
        order = order[np.argsort(_rank_in_class(labels[order]), kind="stable")]
    return np.sort(order[:count])


def partition_iid(
    labels: Int64[np.ndarray, " sample"], devices: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "_"], ...]:
    """Shuffled samples dealt in near-equal parts: sizes differ by one at most.

    Each part is ascending. Raises `DataError` when there are fewer samples than devices.
    """
    _require_enough(len(labels), devices, least=1)
    parts = np.array_split(rng.permutation(len(labels)), devices)
    return tuple(np.sort(part) for part in parts)


def partition_dirichlet(
    labels: Int64[np.ndarray, " sample"],
    devices: int,
    alpha: float,
    rng: np.random.Generator,
    least: int = 1,
) -> tuple[Int64[np.ndarray, "_"], ...]:
    """Each class divided over the devices in proportions drawn from Dirichlet(alpha).

    Small `alpha` gives each device few classes, large `alpha` tends to an even split. Drawn anew
    a few times while a device has fewer than `least` samples; then the best draw is repaired: the
    largest device gives the short one what it lacks. Each part is ascending. Raises `DataError`
    when there are fewer than `devices * least` samples or `alpha` is not above 0.

    Source: Hsu et al. 2019, section 3.1, for the label skew; proportions per class over devices
    as in Yurochkin et al. 2019, section 4, which keeps every sample.
    """
    if not 0.0 < alpha < np.inf:
        raise DataError(f"Dirichlet alpha is {alpha}: choose a finite number above 0")
    _require_enough(len(labels), devices, least)
    best = _draw(labels, devices, alpha, rng)
    for _ in range(_DRAWS - 1):
        if _smallest(best, devices) >= least:
            break
        other = _draw(labels, devices, alpha, rng)
        best = max(best, other, key=lambda owners: _smallest(owners, devices))
    owner = _repair(best, devices, least, rng)
    by_owner = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=devices)
    return tuple(np.split(by_owner, np.cumsum(sizes)[:-1]))


def partition_groups(
    groups: Int64[np.ndarray, " sample"], devices: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "_"], ...]:
    """Each group's samples on one device, groups dealt so that devices have about as many samples:
    the largest first, to the device with the fewest.

    Equal sizes are in drawn order, and so are devices. Each part is ascending. Raises `DataError`
    when there are fewer groups than devices.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < devices:
        raise DataError(
            f"the column has {len(names)} values, there are {devices} devices, and each value is on"
            " one device: take fewer devices or more samples"
        )
    shuffled = rng.permutation(len(names))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    owner, filled = np.empty(len(names), np.int64), np.zeros(devices, np.int64)
    turns = rng.permutation(devices)
    for group in order:
        owner[group] = turns[np.argmin(filled[turns])]
        filled[owner[group]] += sizes[group]
    mine = owner[np.searchsorted(names, groups)]
    return tuple(np.flatnonzero(mine == device) for device in range(devices))


def check_parts(parts: object, samples: int, devices: int) -> tuple[Int64[np.ndarray, "_"], ...]:
    """What another package's partition has dealt, each device's ascending. Raises DataError unless
    each device has samples, and no sample is with two."""
    if not isinstance(parts, Sequence):
        raise DataError(f"a partition gives an array of indices a device, not {parts!r:.80}")
    made = tuple(np.sort(np.asarray(part)) for part in parts)
    if len(made) != devices:
        raise DataError(f"the partition has {len(made)} devices, there are {devices}")
    for device, part in enumerate(made):
        if part.ndim != 1 or part.dtype.kind not in "iu" or len(part) == 0:
            raise DataError(f"the partition gives device {device} no samples, as their indices")
    dealt = np.concatenate(made)
    if dealt.min() < 0 or dealt.max() >= samples or len(np.unique(dealt)) != len(dealt):
        raise DataError(
            f"the partition has a sample twice, or one that is not among the {samples} there are"
        )
    return tuple(part.astype(np.int64) for part in made)


def label_counts(
    labels: Int64[np.ndarray, " sample"], parts: tuple[Int64[np.ndarray, "_"], ...], classes: int
) -> Int64[np.ndarray, "device class"]:
    """How many samples of each class each device holds."""
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts])


def _rank_in_class(labels: Int64[np.ndarray, " sample"]) -> Int64[np.ndarray, " sample"]:
    """For each sample, how many of its class come before it."""
    by_class = np.argsort(labels, kind="stable")
    _, sizes = np.unique(labels, return_counts=True)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(labels), np.int64)
    ranks[by_class] = np.arange(len(labels)) - starts
    return ranks


def _draw(
    labels: Int64[np.ndarray, " sample"], devices: int, alpha: float, rng: np.random.Generator
) -> Int64[np.ndarray, " sample"]:
    """The owner of every sample."""
    owner = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = _shares(devices, alpha, rng)
        ends = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        owner[members] = np.searchsorted(ends, np.arange(len(members)), side="right")
    return owner


def _shares(devices: int, alpha: float, rng: np.random.Generator) -> Float64[np.ndarray, " device"]:
    """One draw of the symmetric Dirichlet; its limit where the draw leaves float64's range."""
    shares: np.ndarray = rng.dirichlet(np.full(devices, alpha))
    if np.isfinite(shares).all() and np.isclose(shares.sum(), 1.0):
        return shares
    if alpha > 1.0:
        return np.full(devices, 1.0 / devices)
    one = np.zeros(devices)
    one[rng.integers(devices)] = 1.0
    return one


def _repair(
    owner: Int64[np.ndarray, " sample"], devices: int, least: int, rng: np.random.Generator
) -> Int64[np.ndarray, " sample"]:
    """Owners such that every device has `least` samples, taken from the largest ones."""
    repaired = owner.copy()
    sizes = np.bincount(repaired, minlength=devices)
    for short in np.flatnonzero(sizes < least):
        while sizes[short] < least:
            largest = int(np.argmax(sizes))
            given = rng.choice(np.flatnonzero(repaired == largest))
            repaired[given] = short
            sizes[largest] -= 1
            sizes[short] += 1
    return repaired


def _smallest(owner: Int64[np.ndarray, " sample"], devices: int) -> int:
    return int(np.bincount(owner, minlength=devices).min())


def _require_enough(samples: int, devices: int, least: int) -> None:
    if devices < 1:
        raise DataError(f"{devices} devices: choose at least 1")
    if samples < devices * least:
        raise DataError(
            f"{samples} samples are too few for {devices} devices with at least {least} each: "
            "take more samples or fewer devices"
        )


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The order in which one device goes through its samples: which ones it uses at local step s.

    A pure function of (seed, device, step): a resumed run needs no state to go on.
    `samples` are the device's indices into the split, as `partition` deals them. Each epoch is a
    fresh permutation keyed by (seed, device, epoch); its last mini-batch may be smaller. Raises
    `DataError` without samples or with batches of none.
    """

    samples: Int[np.ndarray, " sample"]
    batch_size: int
    seed: int
    device: int
    # the epoch asked for last: every step of an epoch cuts from one permutation
    _order: dict[int, Int[np.ndarray, " sample"]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if not len(self.samples) or self.batch_size < 1:
            raise DataError(
                f"device {self.device} has {len(self.samples)} samples in batches of "
                f"{self.batch_size}: both must be at least 1"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Local steps that see every sample once, `ceil(samples / batch_size)`."""
        return -(-len(self.samples) // self.batch_size)

    def indices(self, step: int) -> Int[np.ndarray, " row"]:
        """The split's indices that make up the mini-batch of local step `step` (0, 1, ...),
        counted over the whole run."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._shuffled(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def _shuffled(self, epoch: int) -> Int[np.ndarray, " sample"]:
        if epoch not in self._order:
            draw = np.random.default_rng([_ORDER_STREAM, self.seed, self.device, epoch])
            shuffled = draw.permutation(self.samples)
            shuffled.flags.writeable = False
            self._order.clear()
            self._order[epoch] = shuffled
        return self._order[epoch]


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Data ready to train on: `parts[n]` are device n's samples of the training split.

    Where devices have their own samples, `data.train` is the test split, and each part all of it:
    so mini-batches may be counted and measured, and nothing else is known of theirs.

    `watched`: what rounds are evaluated on, where that is not the whole test split.
    `chat_template`: what makes the text of conversations instead of the tokenizer's own.
    """

    data: DataSet
    task: Task
    batches: BatchMaker
    parts: tuple[Int64[np.ndarray, "_"], ...]
    skipped: int
    watched: Samples | None = None
    chat_template: str | None = None
