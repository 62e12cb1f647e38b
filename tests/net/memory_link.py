"""A connection inside one process: two bounded queues. For tests, and for runs without a network.

A slow reader makes its writer wait, as a socket's would.
"""

import asyncio
from collections import deque
from typing import final

from cutlayer.net.wire.frames import Buffers
from cutlayer.net.wire.link import Link, LinkClosed


@final
class MemoryLink(Link):
    """One end of a pair; make both with `memory_links`."""

    def __init__(self, peer: str, inbox: "_Pipe", outbox: "_Pipe") -> None:
        self._peer = peer
        self._inbox = inbox
        self._outbox = outbox

    @property
    def peer(self) -> str:
        """The name given to the other end."""
        return self._peer

    async def send(self, frame: Buffers) -> None:
        """Into the other end's queue; waits while it is full."""
        await self._outbox.put(b"".join(frame) if isinstance(frame, tuple) else frame)

    async def receive(self) -> bytes:
        """The next frame that the other end sent, those before it closed included."""
        return await self._inbox.get()

    async def close(self, reason: str = "") -> None:
        """Both directions end; frames on their way to the other end still arrive."""
        await self._inbox.close(reason)
        await self._outbox.close(reason)


def memory_links(device: str, server: str, frames: int = 4) -> tuple[MemoryLink, MemoryLink]:
    """The device's end and the server's, with at most `frames` on their way in each direction."""
    up, down = _Pipe(frames), _Pipe(frames)
    return MemoryLink(server, inbox=down, outbox=up), MemoryLink(device, inbox=up, outbox=down)


@final
class _Pipe:
    """One direction: a queue that can be closed."""

    def __init__(self, frames: int) -> None:
        self._frames: deque[bytes] = deque()
        self._most = frames
        self._closed: str | None = None
        self._changed = asyncio.Condition()

    async def put(self, frame: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._closed is not None or len(self._frames) < self._most
            )
            if self._closed is not None:
                raise LinkClosed(self._closed)
            self._frames.append(frame)
            self._changed.notify_all()

    async def get(self) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed is not None or bool(self._frames))
            if not self._frames:
                raise LinkClosed(self._closed)
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    async def close(self, reason: str) -> None:
        async with self._changed:
            if self._closed is None:
                self._closed = reason or "the other end has closed the link"
            self._changed.notify_all()
