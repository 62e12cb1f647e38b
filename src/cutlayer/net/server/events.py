"""What happens to a server, and what it does about it: the events and instructions of its session.

One value each; the driver brings the first and carries out the others.
"""

from dataclasses import dataclass
from typing import TypeAlias

from cutlayer.net.wire.frames import Buffers, Received
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Held,
    Message,
    OwnSamples,
    PartPiece,
    PartRange,
)


@dataclass(frozen=True)
class Joined:
    """An authenticated device has a new connection, in the place of any that it had."""

    device: int


@dataclass(frozen=True)
class Left:
    """A device's connection has ended."""

    device: int


@dataclass(frozen=True)
class ReceivedFrom:
    """A frame of a device."""

    device: int
    frame: Received


@dataclass(frozen=True)
class Tick:
    """Time has passed [s], by a clock that never goes back."""

    seconds: float


@dataclass(frozen=True)
class GradientReady:
    """A device's gradient, as a packet: empty where none is sent."""

    device: int
    message: Activation | Held
    packet: bytes


@dataclass(frozen=True)
class BatchTrained:
    """The outcome of a `Train`, or of several that were computed in one pass."""

    gradients: tuple[GradientReady, ...]


@dataclass(frozen=True)
class AdapterStored:
    """The outcome of `StoreAdapter`."""

    device: int
    message: Adapter


@dataclass(frozen=True)
class InvalidFrom:
    """The outcome of `Read`, `Train` or `StoreAdapter`: no device may send such a thing."""

    device: int
    reason: str


@dataclass(frozen=True)
class PieceRead:
    """The outcome of `Read`."""

    device: int
    piece: PartPiece


@dataclass(frozen=True)
class Renewed:
    """The outcome of `Renew`."""

    device: int


@dataclass(frozen=True)
class Known:
    """The outcome of `Know`."""

    device: int


@dataclass(frozen=True)
class Saved:
    """The outcome of `Checkpoint`. `ended`: the run ends with this round, before its last one."""

    ended: bool = False


@dataclass(frozen=True)
class Merged:
    """The outcome of `Merge`: the next round's adapter, as a packet, and each device's share of the
    bandwidth in it. `own`: where devices keep theirs, what is known of each one's. `whole`: the
    adapter for devices that have not the one before, where it differs."""

    made: tuple[int, ...]
    adapter: bytes
    shares: tuple[float, ...]
    own: tuple[bytes, ...] = ()
    whole: bytes = b""


Event: TypeAlias = (
    Joined
    | Left
    | ReceivedFrom
    | Tick
    | PieceRead
    | BatchTrained
    | AdapterStored
    | InvalidFrom
    | Renewed
    | Known
    | Merged
    | Saved
)


@dataclass(frozen=True)
class SendTo:
    """Send this frame to a device."""

    device: int
    frame: Buffers


@dataclass(frozen=True)
class HangUpOn:
    """End a device's connection; the reason is for the server's log."""

    device: int
    reason: str


@dataclass(frozen=True)
class Read:
    """Read a piece of the file of the devices' part; answered by `PieceRead` or `InvalidFrom`."""

    device: int
    place: PartRange


@dataclass(frozen=True)
class Train:
    """Compute a gradient; answered by `BatchTrained` or `InvalidFrom`."""

    device: int
    message: Activation | Held


@dataclass(frozen=True)
class StoreAdapter:
    """Keep an adapter; answered by `AdapterStored` or `InvalidFrom`."""

    device: int
    message: Adapter


@dataclass(frozen=True)
class Renew:
    """Void what a device has done of this round; answered by `Renewed`."""

    device: int


@dataclass(frozen=True)
class Know:
    """Remember what samples a device has; answered by `Known` or `InvalidFrom`."""

    device: int
    samples: OwnSamples


@dataclass(frozen=True)
class Merge:
    """Close the round with these devices; answered by `Merged`."""

    made: tuple[int, ...]


@dataclass(frozen=True)
class AppendToJournal:
    """Write to the round's journal, on disk before any frame or checkpoint after this leaves.

    `more`: the next entry was computed in the same pass.
    """

    device: int | None
    message: Message
    more: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Put the state of the round that closed on disk; answered by `Saved`."""

    round: int


@dataclass(frozen=True)
class Warn:
    """Tell the server's operator."""

    text: str


@dataclass(frozen=True)
class GiveUp:
    """End the run before its last round; it can be resumed."""

    reason: str


@dataclass(frozen=True)
class Finish:
    """The run has reached its end."""


Instruction: TypeAlias = (
    SendTo
    | HangUpOn
    | Read
    | Train
    | StoreAdapter
    | Renew
    | Know
    | Merge
    | AppendToJournal
    | Checkpoint
    | Warn
    | GiveUp
    | Finish
)
