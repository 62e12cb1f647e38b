"""Whatever is made or renamed, its folder is flushed after it."""

import subprocess
import sys
from pathlib import Path

import pytest

from cutlayer.files import sync_folder

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
