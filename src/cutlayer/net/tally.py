"""Bytes that crossed a session's connections, by round and by what they carry, and by device.

The payloads have the names that the trainer's ledger gives them; all else (headers, settings,
numbers of samples, checksums) is `overhead`.
"""

from collections import Counter, defaultdict
from typing import final

from cutlayer.net.messages import Activation, Adapter, Gradient, Message, Open, Piece


@final
class Tally:
    """Counts what is sent and received, sent again included."""

    def __init__(self) -> None:
        self._rounds: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._uplink: Counter[int] = Counter()
        self._downlink: Counter[int] = Counter()

    def add(self, round_number: int, message: Message, frame_bytes: int) -> None:
        """Enter one frame."""
        payloads = _payloads(message)
        self._rounds[round_number].update(payloads)
        self._rounds[round_number]["overhead"] += frame_bytes - sum(payloads.values())

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
        """The bytes of a round, by payload."""
        return dict(self._rounds[round_number])

    def total(self) -> dict[str, int]:
        """The bytes of all rounds, by payload."""
        return dict(sum(self._rounds.values(), Counter[str]()))


def _payloads(message: Message) -> dict[str, int]:
    match message:
        case Activation():
            return {"activation": len(message.packet), "labels": len(message.labels)}
        case Gradient():
            return {"gradient": len(message.packet)}
        case Piece():
            return {"model": len(message.data)}
        case Open():
            return {"adapter_down": len(message.adapter)}
        case Adapter():
            return {"adapter_up": len(message.packet)}
        case _:
            return {}
