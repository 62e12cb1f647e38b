"""How threads wait is settled before torch is loaded, for whoever did not settle it."""

import os
import subprocess
import sys

import pytest

from cutlayer.cli.main import wait_passively

_LOADED = """
import os, sys
from cutlayer.cli import main
assert "torch" not in sys.modules, "torch reads these as it is loaded"
main.main(["codec", "--no-such-option"])
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
"""


def test_waiting_is_passive_where_nobody_chose() -> None:
    environment = {"PATH": "/bin"}
    wait_passively(environment)
    assert environment == {
        "PATH": "/bin",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "1000",
        "KMP_BLOCKTIME": "0",
    }


@pytest.mark.parametrize(
    "choice", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"]
)
def test_a_choice_of_the_users_own_stays(choice: str) -> None:
    environment = {choice: "as I say"}
    wait_passively(environment)
    assert environment == {choice: "as I say"}


@pytest.mark.parametrize(
    ("own", "said"), [({}, "PASSIVE 1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None")]
)
def test_a_command_settles_it_before_torch(own: dict[str, str], said: str) -> None:
    """In a process of its own: what pytest runs in has torch already."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env=environment | own,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == said
