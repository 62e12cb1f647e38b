"""Which of the mini-batches that wait at the server it takes together, and in which passes.

One description that the timeline, the trainer and the networked server follow. Knows sizes alone:
no tensor, no clock, no queue. A mini-batch here is whatever one activation is for: a micro-batch
where a scheme has several.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cutlayer.errors import ConfigError

# A pass may compute a quarter more tokens than its mini-batches have. Padding is the price of one
# pass instead of two; beyond a quarter the second pass is cheaper wherever arithmetic is what takes
# the time, and where it is not, passes are few anyway.
MOST_PADDING = 1.25


class ServerBatch(StrEnum):
    """What the server computes at a time.

    ALONE: one mini-batch, so that a device's result depends on no other device, to the bit.
    ARRIVALS: all that wait, in as few passes as their lengths allow; each device's result is its
    result alone but for rounding.
    """

    ALONE = "alone"
    ARRIVALS = "arrivals"


@dataclass(frozen=True)
class Waiting:
    """A mini-batch at the server: whose it is, its samples, the tokens of its longest one."""

    device: int
    samples: int
    tokens: int

    @property
    def cost(self) -> int:
        """Tokens that a pass of its own would compute."""
        return self.samples * self.tokens


@dataclass(frozen=True)
class ServerBatching:
    """How mini-batches become passes of the server part.

    `most_tokens`: what is taken together at most; a larger mini-batch is taken by itself.
    `coalesce_s`: how long the oldest may be made to wait for others; 0: nobody waits for anybody.
    Raises ConfigError for tokens below 1 and seconds that are negative or not finite.
    """

    batch: ServerBatch = ServerBatch.ALONE
    most_tokens: int = 4_096
    coalesce_s: float = 0.0

    def __post_init__(self) -> None:
        if self.most_tokens < 1:
            raise ConfigError(f"most_tokens is {self.most_tokens}: a batch needs at least 1")
        if not 0 <= self.coalesce_s < float("inf"):  # NaN is neither
            raise ConfigError(f"coalesce_s is {self.coalesce_s}: give finite seconds of at least 0")

    def most_together(self, devices: int, cost: int) -> int:
        """How many of so many devices share a pass at most, with mini-batches of `cost` tokens."""
        if self.batch is ServerBatch.ALONE:
            return 1
        return max(1, min(devices, self.most_tokens // cost))

    def pause_s(self, waiting: Sequence[Waiting], oldest_waited_s: float, more: bool) -> float:
        """How much longer to wait before `take` [s]; 0: take now.

        `more`: whether a mini-batch of a device that has none here can still come.
        """
        enough = sum(one.cost for one in waiting) >= self.most_tokens
        if self.batch is ServerBatch.ALONE or enough or not more:
            return 0.0
        return max(0.0, self.coalesce_s - oldest_waited_s)

    def take(self, waiting: Sequence[Waiting]) -> tuple[int, ...]:
        """The places in `waiting`, which is in order of arrival, of those to compute now.

        In turns: each device's oldest before anyone's second, the older one first, up to the first
        that no longer fits `most_tokens`. So whoever is oldest is always taken, nobody is passed
        over for being large, and a device's own stay in order.
        """
        if self.batch is ServerBatch.ALONE:
            return (0,) if waiting else ()
        turns: Counter[int] = Counter()
        order = []
        for place, one in enumerate(waiting):
            order.append((turns[one.device], place))
            turns[one.device] += 1
        taken: list[int] = []
        tokens = 0
        for _, place in sorted(order):
            tokens += waiting[place].cost
            if taken and tokens > self.most_tokens:
                break
            taken.append(place)
        return tuple(taken)

    def passes(self, taken: Sequence[Waiting]) -> tuple[tuple[int, ...], ...]:
        """The places in `taken` that share a pass, pass by pass, in the order to compute them.

        Mini-batches of similar length share one: padded to its longest, a pass has at most
        `MOST_PADDING` times the tokens that its mini-batches have. The pass of the oldest comes
        first, and within a pass places ascend.
        """
        found: list[list[int]] = []
        longest = own = samples = 0
        for place in sorted(range(len(taken)), key=lambda place: (-taken[place].tokens, place)):
            one = taken[place]
            own, samples = own + one.cost, samples + one.samples
            if not found or longest * samples > MOST_PADDING * own:
                longest, own, samples = one.tokens, one.cost, one.samples
                found.append([])
            found[-1].append(place)
        return tuple(sorted(tuple(sorted(places)) for places in found))


# one at a time: what a server does unless told
ALONE = ServerBatching()
