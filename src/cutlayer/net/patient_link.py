"""A link that does not wait for ever for the other end to read.

Knows a limit; what paces a link goes around this one, so that its waiting is not the reader's.
"""

import asyncio
from typing import final

from cutlayer.net.link import Link, LinkClosed


@final
class PatientLink(Link):
    """Another link, closed once a frame has waited for its reader for `patience_s` [s]."""

    def __init__(self, link: Link, patience_s: float) -> None:
        self._link = link
        self._patience_s = patience_s

    @property
    def peer(self) -> str:
        """The authenticated name of the other end."""
        return self._link.peer

    async def send(self, frame: bytes) -> None:
        """Send one frame. Raises LinkClosed, also for a reader that is too slow."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._link.send(frame)
        except TimeoutError:
            reason = f"a frame was not read for {self._patience_s:g} s"
            await self._link.close(reason)
            raise LinkClosed(reason) from None

    async def receive(self) -> bytes:
        """One whole frame. Raises LinkClosed."""
        return await self._link.receive()

    async def close(self, reason: str = "") -> None:
        """End the connection; closing again does nothing."""
        await self._link.close(reason)
