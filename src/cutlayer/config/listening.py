"""Whether a server can listen where it is told to, and what is said if it cannot.

Knows addresses and the options that name them; nothing of who is served there.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping

from cutlayer.errors import RunError
from cutlayer.net.any_address import any_socket


def try_addresses(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Listen on all of them for a moment: before a run directory is made, or a model loaded.

    addresses: (host, port) by the option that names it. Raises RunError.
    """
    with contextlib.ExitStack() as taken:
        for option, address in addresses.items():
            try:
                for one in _sockets(*address):
                    taken.enter_context(one)
            except OSError as error:
                host, port = address
                raise RunError(
                    f"cannot listen on {host}:{port}: {_reason(error)}; give an address of this"
                    f" machine with a free port as {option}"
                ) from error


def _sockets(host: str, port: int) -> Iterator[socket.socket]:
    """One for each address that the name has, as a server makes them."""
    both = any_socket(host, port)
    if both is not None:
        yield both
        return
    for family, *_, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        yield socket.create_server(found[:2], family=family)


def _reason(error: OSError) -> str:
    """The system's own words; `socket` adds the address to them, which is named already."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return str(error.strerror or error)
    return os.strerror(error.errno)
