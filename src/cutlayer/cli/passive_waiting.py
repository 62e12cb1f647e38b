"""Threads that wait sleep: a process shares its processors with what else runs on the machine.

OpenMP's threads spin while they wait for each other. Where other processes want the processors, a
thread spins through the time slice that the one it waits for needs. Torch's wheels bring GNU's
OpenMP on Linux and LLVM's on macOS; some builds link Intel's. `benchmarks/busy_neighbours.py` has
what it costs and gains.
"""

from collections.abc import MutableMapping

# a run that has the machine to itself is as fast with 1,000 turns as with the usual 300,000, and a
# seventh slower with none. GNU's reads the first two, LLVM's and Intel's the first and the third;
# none reads KMP_LIBRARY but Intel's, and it decides the same
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
_CHOICES = (*_PASSIVE, "KMP_LIBRARY")


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Say so in the environment, which the library reads once, as torch loads it; child processes
    have it too. Any choice of the user's own stays as it is."""
    if not any(name in environment for name in _CHOICES):
        environment.update(_PASSIVE)
