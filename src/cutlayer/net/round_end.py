"""When a round ends: how many adapters have come, and how long it has been open.

Knows numbers and times [s] alone; whose adapters they are is the session's.
"""

from dataclasses import dataclass
from enum import Enum

from cutlayer.errors import ConfigError


class Verdict(Enum):
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

    def verdict(self, made: int, elapsed_s: float) -> Verdict:
        """Of a round that `made` devices have made, so long after it began."""
        late = self.deadline_s is not None and elapsed_s >= self.deadline_s
        if made == self.devices or (late and made >= self.quorum):
            return Verdict.CLOSE
        if self.give_up_s is not None and elapsed_s >= self.give_up_s:
            return Verdict.GIVE_UP
        return Verdict.SHORT if late else Verdict.GO_ON
