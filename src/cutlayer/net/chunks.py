"""Frames in chunks, so that neither end of a stream holds or waits for more than one mebibyte.

Knows the chunks of one stream in order; nothing of what carries them. A chunk is four bytes, the
count of the frame's bytes still to come with this chunk's own (little endian), and as many of them
as fit. So a frame has one sequence of chunks, its length is known from the first, and bytes that
were lost or added show at once.
"""

import struct
from collections.abc import Iterator

from cutlayer.errors import FrameError
from cutlayer.units import MIB, format_bytes

CHUNK_BYTES = MIB
_HEADER = struct.Struct("<I")
_ROOM_BYTES = CHUNK_BYTES - _HEADER.size
LARGEST_FRAME_BYTES = 2**32 - 1


def chunks_of(frame: bytes) -> Iterator[bytes]:
    """The chunks of `frame`, each of at most `CHUNK_BYTES`; an empty frame is one chunk.

    Raises FrameError for a frame of 4 GiB or more.
    """
    if len(frame) > LARGEST_FRAME_BYTES:
        raise FrameError(f"a frame of {format_bytes(len(frame))}; 4 GiB is the end")
    view = memoryview(frame)
    for start in range(0, max(1, len(frame)), _ROOM_BYTES):
        header = _HEADER.pack(len(frame) - start)
        yield b"".join((header, view[start : start + _ROOM_BYTES]))


class ChunkReader:
    """Puts the frames of one stream together again, holding at most one.

    largest_frame_bytes: a longer frame is refused at its first chunk.
    """

    def __init__(self, largest_frame_bytes: int) -> None:
        self._largest = largest_frame_bytes
        self._parts: list[memoryview] = []
        self._missing = 0

    @property
    def within_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._parts)

    @property
    def held_bytes(self) -> int:
        """What has come of it."""
        return sum(len(part) for part in self._parts)

    def feed(self, chunk: bytes) -> bytes | None:
        """The frame that `chunk` completes, if any. Raises FrameError; the stream is then over."""
        if not _HEADER.size <= len(chunk) <= CHUNK_BYTES:
            raise FrameError(f"a chunk of {len(chunk)} bytes, neither empty nor within 1 MiB")
        (missing,) = _HEADER.unpack_from(chunk)
        self._check(missing, len(chunk) - _HEADER.size)
        self._parts.append(memoryview(chunk)[_HEADER.size :])
        self._missing = missing - (len(chunk) - _HEADER.size)
        if self._missing:
            return None
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _check(self, missing: int, held: int) -> None:
        if self.within_frame and missing != self._missing:
            raise FrameError(f"a chunk with {missing} bytes to come where {self._missing} were")
        if missing > self._largest:
            raise FrameError(
                f"a frame of {format_bytes(missing)} where {format_bytes(self._largest)} are the"
                " limit"
            )
        if held != min(missing, _ROOM_BYTES):
            raise FrameError(f"a chunk that holds {held} of {missing} bytes to come")
