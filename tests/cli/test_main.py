"""What the command line makes of errors that are nobody's in particular."""

import errno
import os

import pytest

from cutlayer.cli.main import what_the_system_says


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "runs"), "runs: Permission denied"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused"),
        (OSError("what a library says"), "what a library says"),
    ],
)
def test_an_error_of_the_system_blames_nobody_else(error: OSError, said: str) -> None:
    assert what_the_system_says(error) == said
