"""What a session's driver asks of a connection. Knows no socket: each kind of link is a file."""

from abc import ABC, abstractmethod


class LinkClosed(Exception):  # noqa: N818 - an event of every link's life, not a mistake
    """The connection has ended; says why in words that carry no secret."""


class Link(ABC):
    """One device's connection, seen from either end: frames in order, whole, or closed."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The authenticated name of the other end."""

    @abstractmethod
    async def send(self, frame: bytes) -> None:
        """Send one frame; waits while the peer is slow. Raises LinkClosed."""

    @abstractmethod
    async def receive(self) -> bytes:
        """One whole frame. Raises LinkClosed."""

    @abstractmethod
    async def close(self, reason: str = "") -> None:
        """End the connection; closing again does nothing."""
