"""Notes when what of each device came and went in a round, by the server's clock.

Knows one clock, and neither links nor tensors. A server that is started again within a round has
not seen all of it, and measures the devices that it has seen whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from cutlayer.net.frames import Kind, Position
from cutlayer.net.messages import Activation, Adapter
from cutlayer.net.times import DeviceTimes


@dataclass(frozen=True)
class Seen:
    """One micro-batch at the server [s]: it arrived, its computation began, its answer left; and
    the bytes of what came and went."""

    arrived_s: float
    started_s: float
    replied_s: float
    up_bytes: int
    down_bytes: int


@dataclass(frozen=True)
class SeenDevice:
    """A device's whole round at the server [s].

    Its probe arrived at `asked_s` and was answered at `answered_s`; its adapter came at `took_s`.
    `steps`: every micro-batch in its order. `times`: what the device says itself.
    """

    asked_s: float
    answered_s: float
    took_s: float
    adapter_bytes: int
    steps: tuple[tuple[Position, Seen], ...]
    times: DeviceTimes | None


@dataclass(frozen=True)
class SeenRound:
    """A round at the server: its first opening left at `began_s`; the devices whose adapters
    came."""

    began_s: float
    devices: Mapping[int, SeenDevice]


@dataclass
class _Own:
    """A device's round so far."""

    asked_s: float = 0.0
    answered_s: float = 0.0
    arrived_s: float = 0.0
    started_s: float = 0.0
    steps: dict[Position, Seen] = field(default_factory=dict)
    took: SeenDevice | None = None


@final
class ServerWatch:
    """`clock`: seconds, from any beginning, that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s: float | None = None
        self._own: dict[int, _Own] = {}

    def now(self) -> float:
        """The clock."""
        return self._clock()

    def arrived(self, device: int, arrived_s: float) -> None:
        """A frame of the device is looked at, which came at `arrived_s`."""
        self._of(device).arrived_s = arrived_s

    def sends(self, device: int, kind: Kind) -> None:
        """A frame to the device begins to leave."""
        own, now_s = self._of(device), self._clock()
        match kind:
            case Kind.OPEN:
                self._own[device] = _Own()
                self._began_s = now_s if self._began_s is None else self._began_s
            case Kind.ECHO:
                own.asked_s, own.answered_s = own.arrived_s, now_s
            case Kind.GRADIENT if own.steps:
                last, seen = own.steps.popitem()
                own.steps[last] = replace(seen, replied_s=now_s)
            case _:
                pass

    def starts(self, device: int) -> None:
        """The computation for the frame that is looked at begins."""
        self._of(device).started_s = self._clock()

    def trained(self, device: int, message: Activation, packet: bytes) -> None:
        """That computation has ended, in the gradient `packet`."""
        own = self._of(device)
        own.steps[message.position] = Seen(
            arrived_s=own.arrived_s,
            started_s=own.started_s,
            replied_s=self._clock(),
            up_bytes=len(message.packet) + len(message.labels),
            down_bytes=len(packet),
        )

    def took(self, device: int, message: Adapter) -> None:
        """The frame that is looked at is the device's adapter."""
        own = self._of(device)
        own.took = SeenDevice(
            asked_s=own.asked_s,
            answered_s=own.answered_s,
            took_s=own.arrived_s,
            adapter_bytes=len(message.packet),
            steps=tuple(own.steps.items()),
            times=message.times,
        )

    def close(self) -> SeenRound | None:
        """The round closes; None if its beginning was not seen."""
        began_s, owns = self._began_s, self._own
        self._began_s, self._own = None, {}
        if began_s is None:
            return None
        # a server that was started again within the round opens it late, for who comes anew: others
        # may have ended it by then
        took = {number: own.took for number, own in owns.items()}
        seen = {n: own for n, own in took.items() if own is not None and own.took_s >= began_s}
        return SeenRound(began_s, seen)

    def _of(self, device: int) -> _Own:
        return self._own.setdefault(device, _Own())
