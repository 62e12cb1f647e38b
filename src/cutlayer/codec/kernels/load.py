"""Which form of the hot loops this machine has. Knows of both and of nothing else."""

import os
import warnings
from functools import cache

from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import Native
from cutlayer.codec.kernels.portable import Portable


def load_kernels(threads: int = 1) -> Kernels:
    """The C form where it was built, else the numpy form, with one warning in a process.

    `CUTLAYER_PORTABLE=1` in the environment asks for the numpy form, which never uses threads.
    """
    if os.environ.get("CUTLAYER_PORTABLE") == "1":
        return Portable()
    try:
        return Native(threads)
    except OSError as error:
        _warn(str(error))
        return Portable()


@cache
def _warn(reason: str) -> None:
    """Once for each reason, of which a process has one."""
    warnings.warn(
        f"the codec runs without its C part ({reason}): its bytes are the same, but it is many "
        "times slower. Install a C compiler (for example `apt install gcc`), then reinstall "
        "cutlayer.",
        RuntimeWarning,
        stacklevel=3,
    )
