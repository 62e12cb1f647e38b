"""Whether a server can listen where it is told to, and what is said if it cannot.

Knows addresses and the options that name them; nothing of who is served there.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

from cutlayer.errors import RunError


def try_addresses(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Listen on all of them for a moment: before a run directory is made, or a model loaded.

    addresses: (host, port) by the option that names it. Raises RunError.
    """
    with contextlib.ExitStack() as taken:
        for option, address in addresses.items():
            try:
                for family, *_, found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
                    taken.enter_context(socket.create_server(found[:2], family=family))
            except OSError as error:
                host, port = address
                raise RunError(
                    f"cannot listen on {host}:{port}: {_reason(error)}; give an address of this"
                    f" machine with a free port as {option}"
                ) from error


def _reason(error: OSError) -> str:
    """The system's own words; `socket` adds the address to them, which is named already."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return str(error.strerror or error)
    return os.strerror(error.errno)
