"""Who takes part in a round, who leaves it, and when it closes: one rule for simulator and network.

Every draw is from a generator keyed by the seed and what it is for, so that a resumed run draws
what it would have drawn. Knows numbers of devices and seconds alone; whose adapters they are, and
what is computed meanwhile, is others'.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from itertools import pairwise
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cutlayer.errors import ConfigError, RunError

# keeps these streams apart from those that other parts of a run make of the same seed
_PARTICIPANTS = int.from_bytes(b"part")
# draws of who is there until there are enough
_ATTEMPTS = 1000
# devices that a message names
_NAMED = 5
TRACE_HEADING = "device,from_s,to_s"

# When a round ends: how many adapters have come, and how long it has been open.


class RoundVerdict(Enum):
    """What becomes of a round now. `SHORT`: it is past its deadline, and goes on."""

    GO_ON = "go on"
    SHORT = "short"
    CLOSE = "close"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class RoundEnd:
    """The rule for rounds of so many `devices`.

    A round closes when all adapters have come, or `deadline_s` after it began (None: never) with
    `quorum` of them or more. With fewer it goes on, for `give_up_s` after it began at most (None:
    for ever). Raises ConfigError for a quorum that cannot be, and for giving up before the
    deadline.
    """

    devices: int
    quorum: int
    deadline_s: float | None = None
    give_up_s: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quorum <= self.devices:
            raise ConfigError(
                f"net.quorum {self.quorum} for {self.devices} devices: set 1 to all of them"
            )
        if self.give_up_s is not None and self.give_up_s < (self.deadline_s or 0.0):
            raise ConfigError(
                f"net.give_up_s {self.give_up_s} is before net.deadline_s {self.deadline_s}: raise"
                " it"
            )

    @property
    def needed(self) -> int:
        """The adapters without which no round closes."""
        return self.devices if self.deadline_s is None else self.quorum

    def verdict(self, made: int, elapsed_s: float) -> RoundVerdict:
        """Of a round that `made` devices have made, so long after it began."""
        late = self.deadline_s is not None and elapsed_s >= self.deadline_s
        if made == self.devices or (late and made >= self.quorum):
            return RoundVerdict.CLOSE
        if self.give_up_s is not None and elapsed_s >= self.give_up_s:
            return RoundVerdict.GIVE_UP
        return RoundVerdict.SHORT if late else RoundVerdict.GO_ON

    def closes_s(self, came_s: Sequence[float]) -> float | None:
        """When the round closes [s] whose devices' adapters come then (infinite: never), or None:
        it does not."""
        times_s = np.asarray(came_s)
        limits = [limit for limit in (self.deadline_s, self.give_up_s) if limit is not None]
        for moment_s in sorted({*times_s[np.isfinite(times_s)].tolist(), *limits}):
            verdict = self.verdict(int((times_s <= moment_s).sum()), moment_s)
            if verdict is RoundVerdict.CLOSE:
                return float(moment_s)
            if verdict is RoundVerdict.GIVE_UP:
                return None
        return None


# Who is there when a round begins.


class RandomStream(IntEnum):
    """What is drawn."""

    PARTICIPANTS = 1
    AVAILABILITY = 2
    LEAVING = 3


def _generator(seed: int, stream: RandomStream, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, _PARTICIPANTS, int(stream), *key])


class Availability(ABC):
    """Which devices of a population can take part."""

    @abstractmethod
    def there(
        self, count: int, now_s: float, round_number: int, attempt: int
    ) -> Bool[np.ndarray, " device"]:
        """Of each of `count` devices whether it is there `now_s` after the run began; `attempt`
        (0, 1, ...): at the beginning of that round, as often as there were too few."""

    @abstractmethod
    def next_s(self, now_s: float) -> float:
        """When others may be there, if now there are too few [s]."""


@final
@dataclass(frozen=True)
class AlwaysThere(Availability):
    """All of them."""

    def there(
        self, count: int, now_s: float, round_number: int, attempt: int
    ) -> Bool[np.ndarray, " device"]:
        return np.ones(count, dtype=bool)

    def next_s(self, now_s: float) -> float:
        return now_s


@final
@dataclass(frozen=True)
class AvailableAtRate(Availability):
    """Each with this probability, in each round anew; that there are too few takes no time."""

    rate: float
    seed: int

    def there(
        self, count: int, now_s: float, round_number: int, attempt: int
    ) -> Bool[np.ndarray, " device"]:
        rng = _generator(self.seed, RandomStream.AVAILABILITY, round_number, attempt)
        return np.asarray(rng.random(count) < self.rate)

    def next_s(self, now_s: float) -> float:
        return now_s


@final
@dataclass(frozen=True, eq=False)
class AvailabilityTrace(Availability):
    """Device `device[n]` is there from `from_s[n]` until `to_s[n]`, on the simulated clock; after
    the last of these times it begins again. Make one with `parsed_availability`."""

    device: Int64[np.ndarray, " interval"]
    from_s: Float64[np.ndarray, " interval"]
    to_s: Float64[np.ndarray, " interval"]

    @property
    def length_s(self) -> float:
        """Until it begins again [s]."""
        return float(self.to_s.max())

    def there(
        self, count: int, now_s: float, round_number: int, attempt: int
    ) -> Bool[np.ndarray, " device"]:
        place_s = math.fmod(now_s, self.length_s)
        # who waits until an interval begins waits for a sum of seconds, which rounds
        rounding_s = 1e-9 * max(now_s, 1.0)
        within = (self.from_s <= place_s + rounding_s) & (place_s + rounding_s < self.to_s)
        found = np.zeros(count, dtype=bool)
        found[self.device[within]] = True
        return found

    def next_s(self, now_s: float) -> float:
        place_s = math.fmod(now_s, self.length_s)
        later_s = self.from_s[self.from_s > place_s + 1e-9 * max(now_s, 1.0)]
        if len(later_s):
            return now_s + float(later_s.min()) - place_s
        return now_s + self.length_s - place_s + float(self.from_s.min())

    @property
    def most(self) -> int:
        """How many devices are there at once, at most."""
        # who leaves at a time is gone when another comes then
        times_s = np.concatenate([self.to_s, self.from_s])
        change = np.repeat([-1, 1], len(self.device))
        order = np.lexsort((change, times_s))
        return int(np.cumsum(change[order]).max())


def parsed_availability(text: str, name: str, count: int) -> AvailabilityTrace:
    """The trace in a file of that name: lines of `device,from_s,to_s` under that heading, for
    devices 0 to `count - 1`.

    Raises ConfigError, with the line, for anything else: a device that is not, an interval that
    does not end after it begins, two of one device that overlap, or a device without any.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != TRACE_HEADING:
        found = repr(lines[0].strip()[:60]) if lines else "an empty file"
        raise ConfigError(f"{name}: line 1 must be {TRACE_HEADING}, not {found}")
    numbered = [(at, line) for at, line in enumerate(lines[1:], start=2) if line.strip()]
    rows = sorted(_interval(f"{name}: line {at}", line, count) for at, line in numbered)
    for (device, _, until_s), (after, from_s, _) in pairwise(rows):
        if device == after and from_s < until_s:
            raise ConfigError(
                f"{name}: device {device} is there until {until_s:g} s and again from {from_s:g} s:"
                " its intervals may not overlap"
            )
    named = {device for device, _, _ in rows}
    unnamed = [str(device) for device in range(count) if device not in named]
    if unnamed:
        more = f" and {len(unnamed) - _NAMED} more" if len(unnamed) > _NAMED else ""
        raise ConfigError(
            f"{name} has no line of device {', '.join(unnamed[:_NAMED])}{more}, which could never"
            f" take part: give each of the {count} devices one"
        )
    numbers, begins_s, ends_s = (np.array(column) for column in zip(*rows, strict=True))
    return AvailabilityTrace(numbers.astype(np.int64), begins_s, ends_s)


def _interval(where: str, line: str, count: int) -> tuple[int, float, float]:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != 3:
        raise ConfigError(f"{where} has {len(cells)} values, not the 3 of {TRACE_HEADING}")
    device, from_s, to_s = cells
    if not (device.isascii() and device.isdigit() and int(device) < count):
        raise ConfigError(f"{where}: {device[:60]!r} is no device: they are 0 to {count - 1}")
    try:
        begins_s, ends_s = float(from_s), float(to_s)
    except ValueError:
        raise ConfigError(f"{where}: {from_s[:30]!r} to {to_s[:30]!r} are no times") from None
    if not 0 <= begins_s < ends_s < math.inf:
        raise ConfigError(
            f"{where}: from {begins_s:g} s to {ends_s:g} s: give times from 0 on, the second later"
        )
    return int(device), begins_s, ends_s


# A population: many devices, of which some take part in each round.


@dataclass(frozen=True)
class RoundBegins:
    """The devices of a round, ascending, and when it begins, after the run began [s]."""

    devices: tuple[int, ...]
    now_s: float


@dataclass(frozen=True)
class Population:
    """`count` devices, of which `per_round` take part in a round, drawn of those that are there;
    all of those, where there are fewer. A round begins when a quorum is there (without one: one).

    `dropout`: the probability that a device leaves a round, in a local step drawn evenly.
    `deadline_s`, `quorum`: as `RoundEnd` has them (None: never, all). `keeps`: whether devices
    remember anything but frozen weights from one of their rounds to the next.
    Raises ConfigError for numbers that cannot be together.
    """

    count: int
    per_round: int
    seed: int
    keeps: bool = True
    availability: Availability = field(default_factory=AlwaysThere)
    dropout: float = 0.0
    quorum: int | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.per_round <= self.count:
            raise ConfigError(
                f"devices.per_round {self.per_round} of devices.count {self.count}: give 1 to all"
                " of them, or null for all"
            )
        if self.quorum is not None and self.quorum > self.per_round:
            raise ConfigError(
                f"net.quorum {self.quorum} of {self.per_round} devices in a round: lower it, or"
                " raise devices.per_round"
            )
        if self.dropout and (self.deadline_s is None or self.quorum is None):
            raise ConfigError(
                f"devices.dropout {self.dropout:g}: who leaves a round does not come back, and a"
                " round that needs all of its devices would never close: set net.deadline_s and"
                " net.quorum"
            )
        there = self._most_there
        if there < self._least:
            raise ConfigError(
                f"{there:g} of {self.count} devices are there at a time (devices.availability), and"
                f" a round needs {self._least}: lower net.quorum"
            )

    @property
    def _least(self) -> int:
        return self.quorum or 1

    @property
    def _most_there(self) -> float:
        match self.availability:
            case AvailableAtRate(rate=rate):
                return rate * self.count
            case AvailabilityTrace():
                return self.availability.most
            case _:
                return self.count

    def begin(self, round_number: int, now_s: float) -> RoundBegins:
        """Who takes part in round `round_number` (1, 2, ...), which can begin `now_s` after the
        run: the same whoever asks. Raises RunError where too few ever are there."""
        for attempt in range(_ATTEMPTS):
            there = self.availability.there(self.count, now_s, round_number, attempt)
            here = np.flatnonzero(there)
            if len(here) >= self._least:
                break
            now_s = self.availability.next_s(now_s)
        else:
            raise RunError(
                f"round {round_number} has never {self._least} devices there (tried"
                f" {_ATTEMPTS} times): raise devices.availability, or lower net.quorum"
            )
        if len(here) > self.per_round:
            rng = _generator(self.seed, RandomStream.PARTICIPANTS, round_number)
            here = np.sort(rng.choice(here, self.per_round, replace=False))
        return RoundBegins(tuple(here.tolist()), now_s)

    def leaves(self, round_number: int, device: int, local_steps: int) -> int | None:
        """The local step (0, 1, ...) that a device does not finish any more; None: it stays."""
        if not self.dropout:
            return None
        rng = _generator(self.seed, RandomStream.LEAVING, round_number, device)
        return int(rng.integers(local_steps)) if rng.random() < self.dropout else None

    def end(self, devices: int) -> RoundEnd:
        """When a round of so many closes."""
        return RoundEnd(devices, self.quorum or devices, self.deadline_s)
