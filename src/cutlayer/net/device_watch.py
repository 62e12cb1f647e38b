"""Notes when a device does what in a round, for the times that go with its adapter.

Knows one clock, and neither links nor tensors. A device that is started again within a round has
not seen all of it, and tells nothing of it.
"""

from collections.abc import Callable
from typing import final

from cutlayer.net.frames import Kind
from cutlayer.net.times import DeviceTimes, StepTimes


@final
class DeviceWatch:
    """`clock`: seconds, from any beginning, that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked_s = self._heard_s = self._arrived_s = self._began_s = 0.0
        self._sent_s: float | None = None
        # None: not seen from its beginning
        self._steps: list[StepTimes] | None = None

    def arrived(self) -> None:
        """A frame is here."""
        self._arrived_s = self._clock()

    def opened(self) -> None:
        """A round begins."""
        self._steps = []

    def heard(self) -> None:
        """The frame that is here answers the probe."""
        self._heard_s = self._arrived_s

    def forward(self) -> None:
        """The forward of a micro-batch begins."""
        self._began_s, self._sent_s = self._clock(), None

    def sends(self, kind: Kind) -> None:
        """A frame begins to leave; an activation that leaves again has left before."""
        if kind is Kind.PROBE:
            self._asked_s = self._clock()
        elif kind is Kind.ACTIVATION and self._sent_s is None:
            self._sent_s = self._clock()

    def stepped(self) -> None:
        """The frame that is here was the gradient that was waited for."""
        if self._steps is not None:
            assert self._sent_s is not None, "a gradient answers what was sent"
            self._steps.append(StepTimes(self._began_s, self._sent_s, self._arrived_s))

    def closed(self) -> DeviceTimes | None:
        """The adapter begins to leave: the times of the round, if all of it was seen."""
        if self._steps is None:
            return None
        return DeviceTimes(self._asked_s, self._heard_s, self._clock(), tuple(self._steps))
