"""The lab's processes: what they say, how they fail, and that none is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.lab.run import LabProcesses, take_precedence


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_what_a_process_is_told_and_says(tmp_path: Path) -> None:
    """JSON lines by their message, others as they are; one thread for its mathematics."""
    says = (
        "import json, os, sys; print(json.dumps({'message': input()}), file=sys.stderr);"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['OWN'], file=sys.stderr)"
    )
    with LabProcesses(tmp_path) as processes:
        one = processes.start("one", python(says), told="a token\n", variables={"OWN": "cache"})
        processes.wait()
    assert one.messages() == ["a token", "1 cache"]


def test_one_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    with LabProcesses(tmp_path) as processes, pytest.raises(RunError) as raised:
        processes.start("server", python("import time; time.sleep(600)"))
        processes.start("device-1", python("import sys; sys.exit('no such data')"))
        processes.wait_until(lambda: False)
    assert str(raised.value) == "device-1 ended with code 1: no such data"


def test_one_that_cannot_be_started(tmp_path: Path) -> None:
    with (
        LabProcesses(tmp_path) as processes,
        pytest.raises(RunError, match="gone cannot be started"),
    ):
        processes.start("gone", (str(tmp_path / "gone"),))


def test_none_is_left(tmp_path: Path) -> None:
    with LabProcesses(tmp_path) as processes:
        one = processes.start("one", python("import time; time.sleep(600)"))
    assert one.popen.poll() == -signal.SIGTERM


def test_one_that_ends_before_it_is_told(tmp_path: Path) -> None:
    """More than a pipe holds, to nobody."""
    with LabProcesses(tmp_path) as processes, pytest.raises(RunError, match="code 3"):
        processes.start("one", python("import os; os._exit(3)"), told="x" * 10**6)
        processes.wait()


def test_processes_come_before_other_work(tmp_path: Path) -> None:
    """Where they may: by their nice value, and by that of their session where Linux shares by
    sessions."""
    with LabProcesses(tmp_path) as processes:
        number = processes.start("one", python("import time; time.sleep(600)")).popen.pid
        nice, session = os.getpriority(os.PRIO_PROCESS, number), Path(f"/proc/{number}/autogroup")
        if os.geteuid() == 0:
            assert nice < os.getpriority(os.PRIO_PROCESS, 0)
            if session.exists():
                assert session.read_text().split()[-2:] == ["nice", str(nice)]
        else:
            assert nice == os.getpriority(os.PRIO_PROCESS, 0)


def test_a_process_that_is_gone_has_no_precedence() -> None:
    gone = subprocess.Popen(python(""))
    gone.wait()
    assert not take_precedence(gone.pid)
