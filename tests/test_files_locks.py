"""One holder at a time, whether it asks or waits; the next one as soon as it has gone."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.files import alone, in_turn

_HOLDER = """
import sys
from pathlib import Path
from cutlayer.files import alone
with alone(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with alone(path, "taken"), pytest.raises(RunError, match="taken"), alone(path, "taken"):
        raise AssertionError("two hold it")
    with alone(path, "taken"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="taken"), alone(path, "taken"):
            raise AssertionError("two hold it")
        holder.kill()
        holder.wait()
    with alone(path, "taken"):
        pass


def test_whoever_waits_has_it_next(tmp_path: Path) -> None:
    path, inside = tmp_path / "lock", threading.Event()

    def wait() -> None:
        with in_turn(path):
            inside.set()

    waiter = threading.Thread(target=wait)
    with in_turn(path):
        waiter.start()
        assert not inside.wait(0.05)
    waiter.join()
    assert inside.is_set()


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"), alone(tmp_path / "no" / "lock", "taken"):
        raise AssertionError("there is no file to hold")
