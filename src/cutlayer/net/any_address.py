"""Listening at any address: `::` is for IPv4 as well, as with other servers.

asyncio would have it take IPv6 alone, and refuse every device that has an IPv4 address.
"""

import contextlib
import ipaddress
import logging
import socket

_LOG = logging.getLogger(__name__)
_BACKLOG = 100  # asyncio's own


def any_socket(host: str, port: int) -> socket.socket | None:
    """A socket that listens for both kinds of addresses, if `host` is `::`; else None.

    Where the system has no such sockets it takes IPv6 alone, and the log says so. Raises OSError.
    """
    if not _is_any(host):
        return None
    both = socket.has_dualstack_ipv6()
    if not both:
        _LOG.warning("[::]:%d takes IPv6 alone on this system; for IPv4 listen on 0.0.0.0", port)
    return socket.create_server(
        (host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=both
    )


def plain_address(address: str) -> str:
    """An IPv4 address as such, where a socket for both kinds shows it as one of IPv6."""
    with contextlib.suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
        return address if mapped is None else str(mapped)
    return address


def _is_any(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) == ipaddress.IPv6Address("::")
    return False
