"""Whatever is made or renamed, its folder is flushed after it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cutlayer.errors import ConfigError, RunError, UnavailableError
from cutlayer.files import may_pass, storage_error, sync_folder, with_descriptor

# the folder that each call opens last; a hook stays for good, so in a process of its own
_SEEN = """
import os
import sys
from pathlib import Path
from cutlayer.net.identity.credentials import replace_private, write_private
from cutlayer.net.server.journal import Entry, Journal
from cutlayer.net.wire.messages import Restarted
from cutlayer.files import write_folder_atomically, write_text

folder, seen = Path(sys.argv[1]), []
(folder / "run").mkdir()
journal = Journal(folder / "run", {})

def hook(event, arguments):
    if event == "open" and arguments[2] & os.O_DIRECTORY:
        seen.append(arguments[0])

sys.addaudithook(hook)
for what in (
    lambda: write_text(folder / "text", "text"),
    lambda: write_folder_atomically(folder / "new", lambda path: None),
    lambda: write_private(folder / "key", b"key"),
    lambda: replace_private(folder / "key", b"key"),
    lambda: journal.append(1, [Entry(0, Restarted(1))]),
    lambda: journal.append(1, [Entry(0, Restarted(1))]),
):
    seen.clear()
    what()
    print(Path(seen[-1]).name if seen else None)
"""


def test_every_new_name_is_flushed(tmp_path: Path) -> None:
    """But for an entry in a file that has its name already."""
    command = [sys.executable, "-c", _SEEN, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [*[tmp_path.name] * 4, "run", "None"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_descriptors_that_have_run_out_are_waited_for(number: int) -> None:
    refusals, slept = [_refused(number)] * 3, list[float]()

    def take() -> str:
        if refusals:
            raise refusals.pop()
        return "open"

    assert with_descriptor(take, lambda: sum(slept), slept.append) == "open"
    assert slept == [0.2] * 3


def test_they_are_not_waited_for_for_ever_and_other_refusals_not_at_all() -> None:
    slept: list[float] = []

    def refuse(number: int) -> None:
        raise _refused(number)

    with pytest.raises(OSError, match="Too many open files"):
        with_descriptor(lambda: refuse(errno.EMFILE), lambda: sum(slept), slept.append)
    assert sum(slept) == pytest.approx(30.0, abs=0.3)
    with pytest.raises(OSError, match="No space left"):
        with_descriptor(lambda: refuse(errno.ENOSPC), sleep=slept.clear)  # type: ignore[arg-type]


def test_what_may_pass_by_itself(tmp_path: Path) -> None:
    full = RunError("cannot write")
    full.__cause__ = _refused(errno.ENOSPC)
    assert may_pass(full) and may_pass(UnavailableError("no server")) and may_pass(full.__cause__)
    rust = storage_error(tmp_path, RuntimeError("I/O error (os error 28)"))
    rust.__cause__ = RuntimeError("I/O error (os error 28)")
    assert may_pass(rust)
    assert not may_pass(ConfigError("unknown")) and not may_pass(_refused(errno.EACCES))
