"""One connection's messages as frames: numbered from 0 each way, and none twice.

Knows no link: bytes go in and come out.
"""

from typing import final

from cutlayer.errors import FrameError
from cutlayer.net.frames import Limits
from cutlayer.net.messages import Message, decode_message, encode_message


@final
class Wire:
    """Both directions of a connection, seen from one end; `limits` is what this end takes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sent = 0
        self._received = 0

    def outgoing(self, message: Message) -> bytes:
        """The next frame to send."""
        frame = encode_message(message, self._sent)
        self._sent += 1
        return frame

    def incoming(self, frame: bytes) -> Message:
        """The message of the next frame. Raises FrameError: no such frame, or not the next one."""
        message, sequence = decode_message(frame, self.limits)
        if sequence != self._received:
            raise FrameError(
                f"frame {sequence} where {self._received} is next: replayed or out of order"
            )
        self._received += 1
        return message
