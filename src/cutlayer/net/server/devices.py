"""The devices of a run as its server knows them: progress and traffic."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from cutlayer.net.wire.messages import Activation, Adapter, Gradient, Message, Open, PartPiece

# How far devices are in a round, and in words: who holds it up.
#
# Knows a device's place and its last reply; decides nothing.


# what a device that loses its state may cost in one round: its steps so many times again
RESTARTS = 8

NameOf = Callable[[int], str | None]

# a message is read by a person
_NAMED = 8


@dataclass(frozen=True)
class DeviceProgress:
    """How far a device is in the round: whether it is here, the local step and micro-batch that it
    sends next, whether its adapter has come, and the last reply that it was sent.

    `restarts`: how often what it had done was void.
    """

    connected: bool = False
    step: int = 0
    done: bool = False
    micro: int = 0
    reply: Gradient | None = None
    restarts: int = 0

    @property
    def untouched(self) -> bool:
        """Whether nothing of the round is done."""
        return self.reply is None


@dataclass(frozen=True)
class Asks:
    """What a server that keeps activations asks a device for in a round.

    `held`: as `Opening` has it. `own`: the local steps of which it holds every sample, or will have
    got it in an earlier one, and how many micro-batches each has: they need no device.
    """

    held: str
    own: Mapping[int, int]


def missing(devices: Sequence[DeviceProgress], steps: int, name_of: NameOf) -> str:
    """Whose adapter of a round of so many local `steps` has not come, and how far each is."""
    late = [number for number, own in enumerate(devices) if not own.done]
    said = [
        f"{name_of(number) or f'device {number}'}"
        f" ({'connected' if devices[number].connected else 'away'},"
        f" {devices[number].step} of {steps} local steps)"
        for number in late[:_NAMED]
    ]
    rest = len(late) - len(said)
    return ", ".join(said) + (f" and {rest} more" if rest else "")


# How many mini-batches the server took together.


@final
class PassCounter:
    """Counts passes by the mini-batches (a device's micro-batch each) that shared them. `total`: of
    all rounds."""

    def __init__(self) -> None:
        self.total: Counter[int] = Counter()
        self._round: Counter[int] = Counter()
        self._last_round: Counter[int] = Counter()

    def add(self, mini_batches: int) -> None:
        """Enter one pass."""
        self.total[mini_batches] += 1
        self._round[mini_batches] += 1

    def close(self) -> None:
        """The round in progress has closed."""
        self._last_round, self._round = self._round, Counter()

    @property
    def mean(self) -> float | None:
        """Mini-batches a pass in the last round that closed, before that in the one in progress;
        None: there was no pass."""
        counted = self._last_round or self._round
        passes = counted.total()
        return sum(size * count for size, count in counted.items()) / passes if passes else None


# Bytes that crossed a session's connections: by what they carry, of late rounds and in all; and by
# device.
#
# The payloads have the names that the trainer's round costs give them; all else (headers, settings,
# numbers of samples, checksums) is `overhead`.


@final
class TrafficCounter:
    """Counts what is sent and received, sent again included."""

    def __init__(self) -> None:
        self._total: Counter[str] = Counter()
        self._rounds: dict[int, Counter[str]] = {}
        # how many there were of each payload
        self._counts: dict[int, Counter[str]] = {}
        self._uplink: Counter[int] = Counter()
        self._downlink: Counter[int] = Counter()

    def add(self, round_number: int, message: Message, frame_bytes: int) -> None:
        """Enter one frame. Rounds that ended before the last one are forgotten."""
        payloads = _payloads(message)
        sent = [name for name, size in payloads.items() if size]
        payloads["overhead"] = frame_bytes - sum(payloads.values())
        if round_number not in self._rounds:
            self._begin(round_number)
        self._rounds[round_number].update(payloads)
        self._counts[round_number].update(sent)
        self._total.update(payloads)

    def crossed(self, device: int, *, up: int = 0, down: int = 0) -> None:
        """Enter a frame's bytes as those of a device."""
        self._uplink[device] += up
        self._downlink[device] += down

    def uplink_bytes(self, device: int) -> int:
        """The bytes of all frames of a device."""
        return self._uplink[device]

    def downlink_bytes(self, device: int) -> int:
        """The bytes of all frames for a device."""
        return self._downlink[device]

    def of(self, round_number: int) -> dict[str, int]:
        """The bytes of the round in progress or the one before it, by payload."""
        return dict(self._rounds.get(round_number, {}))

    def count(self, round_number: int, payload: str) -> int:
        """How many of a payload there were in the round in progress or the one before it."""
        return self._counts.get(round_number, Counter())[payload]

    def total(self) -> dict[str, int]:
        """The bytes of all rounds, by payload."""
        return dict(self._total)

    def _begin(self, round_number: int) -> None:
        for kept in (self._rounds, self._counts):
            before = kept.get(round_number - 1, Counter())
            kept.clear()
            kept.update({round_number - 1: before, round_number: Counter()})


def _payloads(message: Message) -> dict[str, int]:
    match message:
        case Activation():
            return {"activation": len(message.packet), "labels": len(message.labels)}
        case Gradient():
            return {"gradient": len(message.packet)}
        case PartPiece():
            return {"weights": len(message.data)}
        case Open():
            return {"adapter_down": len(message.adapter)}
        case Adapter():
            return {"adapter_up": len(message.packet)}
        case _:
            return {}
