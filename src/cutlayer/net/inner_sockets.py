"""Connections between the gate and the servers behind it: sockets in a folder of this user's own.

Nobody else on the machine can reach them, and they carry bytes at less than half the processor time
of TCP on loopback. A server sees who connected by the name that the other end is bound to.
"""

import shutil
import socket
import tempfile
from pathlib import Path
from typing import final

# what one end may write before the other has read it [bytes], if the system allows
_SEND_BYTES = 512 * 1024


@final
class InnerSockets:
    """Where servers behind the gate listen, and numbered connections to them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cutlayer-"))
        self._connections = 0

    def path(self, server: str) -> str:
        """Where `server` is to listen."""
        return str(self._folder / server)

    def connect(self, path: str) -> tuple[int, socket.socket]:
        """A connection to the server that listens at `path`, and its number.

        Raises OSError if nobody does, or has no time.
        """
        self._connections += 1
        name = self._folder / f"{self._connections}"
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            connection.bind(str(name))
            name.unlink()  # it stays the connection's name
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return self._connections, connection

    def close(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self._folder, ignore_errors=True)


def number_of(peer: str) -> int | None:
    """The number of a connection, by the name that its server sees; None: it is none of these."""
    tail = peer.rpartition("/")[2]
    return int(tail) if tail.isdecimal() else None
