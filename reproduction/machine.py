"""How many processes the memory that is left has room for.

Knows what the system tells; not what the processes do.
"""

from pathlib import Path

from cutlayer.units import KIB

# as Linux tells it
MEMINFO = Path("/proc/meminfo")


def room_for(processes: int, each_bytes: int, meminfo: Path = MEMINFO) -> int:
    """So many of `processes` as find `each_bytes` of memory without swapping; at least one.

    All of them where the system does not tell.
    """
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return processes
    left = [int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable:")]
    return max(1, min(processes, left[0] // each_bytes)) if left else processes
