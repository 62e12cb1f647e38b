"""A lab's folder, and what is done about those of labs that were killed."""

import os
import subprocess
import sys
from pathlib import Path

from cutlayer.lab.environment import delete_folders, is_another_process, lab_folder
from cutlayer.lab.network import lab_name


def test_who_is_another_and_alive() -> None:
    """This process is not another; one that has ended is not alive; nobody has that number."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_another_process(os.getppid())
    assert not is_another_process(os.getpid())
    assert not is_another_process(ended.pid)
    assert not is_another_process(10**30)


def test_the_folder_is_deleted_at_the_end() -> None:
    with lab_folder() as folder:
        (folder / "keys").mkdir()
        assert folder.name.startswith(lab_name(os.getpid(), ""))
    assert not folder.exists()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    names = [lab_name(7, "a_b1"), lab_name(8, "c"), "mine"]
    for name in names:
        (tmp_path / name / "keys").mkdir(parents=True)
    assert delete_folders(tmp_path, {8}.__contains__) == names[:1]
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
