"""How much memory this process has. Knows Linux's `/proc` alone."""

import resource
from pathlib import Path

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """The memory that is in use now [bytes]; None where the system does not say."""
    if not _STATM.exists():
        return None
    return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
