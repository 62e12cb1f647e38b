"""The names of devices and of the server, as certificates carry them.

Knows their spelling; not which devices there are.
"""

import re

from cutlayer.errors import IdentityError

# it has a dot, so no device can have it
SERVER_NAME = "server.cutlayer"
_DEVICE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def device_name(text: str) -> str:
    """`text`, if a device can have it as its name: a DNS label (RFC 1123) in lower case.

    Raises IdentityError.
    """
    if _DEVICE.fullmatch(text) is None:
        raise IdentityError(
            f"no name for a device: {text[:80]!r}; use 1 to 63 of a to z, 0 to 9 and inner hyphens"
        )
    return text
