"""Training on an accelerator, without one: in a process of its own, since torch takes the name of a
backend once per process."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

HERE = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="torch takes a backend written in Python from 2.10 on",
)
@pytest.mark.parametrize(
    "tier", ["not slow", pytest.param("slow", marks=pytest.mark.slow("architectures beyond"))]
)
def test_all_of_training_is_on_the_accelerator(tier: str) -> None:
    """See `on_accelerator.py`, whose tests these are."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", tier]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(HERE / "on_accelerator.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
