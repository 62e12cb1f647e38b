"""Files are written whole or not at all, and a disk that refuses is named."""

import errno
import os
from pathlib import Path

import pytest

from cutlayer.errors import RunError
from cutlayer.files import write_atomically, write_folder_atomically, write_text


def _fail(path: Path) -> None:
    (path / "half" if path.is_dir() else path).write_text("half", encoding="utf-8")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RunError, match=r"file: No space left on device; free some space"):
        write_atomically(path, _fail)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write_folder_atomically(path, lambda new: write_text(new / "a", "old"))
    with pytest.raises(RunError, match="free some space"):
        write_folder_atomically(path, _fail)
    assert [file.name for file in path.iterdir()] == ["a"]
    write_folder_atomically(path, lambda new: write_text(new / "b", "new"))
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_on_disk_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and folder in it is flushed, and only then does anything take its place."""
    path, flushed = tmp_path / "folder", set[str]()
    write_folder_atomically(path, lambda new: write_text(new / "a", "old"))

    def fsync(handle: int) -> None:
        flushed.add(Path(f"/proc/self/fd/{handle}").readlink().name)
        assert [file.name for file in path.iterdir()] == ["a"] or flushed >= {"b", "c", "in"}

    def write(new: Path) -> None:
        (new / "in").mkdir()
        for file in (new / "in" / "b", new / "c"):
            file.write_text("new", encoding="utf-8")

    monkeypatch.setattr(os, "fsync", fsync)
    write_folder_atomically(path, write)
    assert flushed == {"b", "c", "in", ".folder.new", tmp_path.name}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a moment without either: the old one goes aside, and comes back."""
    path, rename = tmp_path / "folder", Path.rename
    write_folder_atomically(path, lambda new: write_text(new / "a", "old"))

    def refuse(one: Path, other: Path) -> Path:
        if one.name.endswith(".new"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(one, other)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match="Input/output error"):
        write_folder_atomically(path, lambda new: write_text(new / "b", "new"))
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="choose another output"):
        write_text(tmp_path / "nowhere" / "file", "text")
