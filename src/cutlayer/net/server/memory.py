"""How much memory a server may need and has."""

import resource
from dataclasses import dataclass
from pathlib import Path

from cutlayer.net.wire.admission import OUTBOX_FRAMES, ConnectionLimits
from cutlayer.net.wire.frames import Bounds, device_limits, largest_frame, server_limits
from cutlayer.net.wire.grpc_link import LARGEST_MESSAGE_BYTES, window_bytes
from cutlayer.net.wire.listener import BUFFER_BYTES

# The most that devices can make a server hold, whatever they send and however little they read.
#
# Knows the limits that each part keeps to, and adds them up: payloads alone, since the numbers
# beside them are few. The server's own (the model, every device's adapter and optimiser, its
# codecs' memory) is not in it: that is there from the start, and no device can add to it.


_SIDES = 2
# of a link: one that nobody received, and one behind it
_INBOX_FRAMES = 2


@dataclass(frozen=True)
class MemoryBound:
    """The most bytes, by where they lie.

    at_listener: on their way between two sides of connections. in_transport: within gRPC, a window
    of what comes, and a message each way. in_links: frames that nobody received. in_sessions: of
    each device a frame that waits for its turn, the frames that it has not read, its last reply
    and its adapter.
    """

    at_listener: int
    in_transport: int
    in_links: int
    in_sessions: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.at_listener + self.in_transport + self.in_links + self.in_sessions


def memory_bound(bounds: Bounds, devices: int, limits: ConnectionLimits) -> MemoryBound:
    """For so many devices, whose links keep to `limits`.

    With C connections, N devices, frames of F_up and F_down bytes at most, window W and message M:

        C (2 buffer + W + 2 M + 2 F_up) + F_up + N (F_up + (outbox + 1) F_down + reply + adapter)

    A frame more than links have waiting is one that is being put together.
    """
    up, down = largest_frame(server_limits(bounds)), largest_frame(device_limits(bounds))
    unread = (OUTBOX_FRAMES + 1) * down
    return MemoryBound(
        at_listener=limits.connections * _SIDES * BUFFER_BYTES,
        in_transport=limits.connections * (window_bytes(limits) + _SIDES * LARGEST_MESSAGE_BYTES),
        in_links=limits.connections * _INBOX_FRAMES * up + up,
        in_sessions=devices * (up + unread + bounds.gradient_bytes + bounds.adapter_bytes),
    )


# How much memory this process has. Knows Linux's `/proc` alone.


_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """The memory that is in use now [bytes]; None where the system does not say."""
    if not _STATM.exists():
        return None
    return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
