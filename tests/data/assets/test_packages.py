import sys
from pathlib import Path

import pytest

from cutlayer.data.assets.packages import DebianPackages, NpmTarball, Wheel, run_tool
from cutlayer.errors import AssetError
from data.assets.kit import delivering, failing, sha256, tarball, wheel

FILES = {"package/data/a.txt": b"text a", "package/b.txt": b"text b"}


def test_a_wheel_is_unpacked_after_its_hash_is_right(tmp_path: Path) -> None:
    content = wheel(FILES)
    commands: list[list[str]] = []
    package = Wheel("some-wheel", "1.0", sha256(content))
    package.fetch(tmp_path, delivering("some_wheel-1.0.whl", content, commands))
    assert (tmp_path / "package/data/a.txt").read_bytes() == b"text a"
    assert not list(tmp_path.glob("*.whl"))
    assert commands[-1][:4] == [sys.executable, "-m", "pip", "download"]
    assert commands[-1][-1] == "some-wheel==1.0"
    assert "--no-deps" in commands[-1]
    assert package.title == "pip some-wheel==1.0"


def test_a_tarball_is_unpacked_without_links_or_ways_out(tmp_path: Path) -> None:
    content = tarball(FILES | {"../out.txt": b"out", "/abs.txt": b"abs"}, link="package/link")
    folder = tmp_path / "inner"
    folder.mkdir()
    commands: list[list[str]] = []
    package = NpmTarball("@some/tar", "2.0", sha256(content))
    package.fetch(folder, delivering("some-tar-2.0.tgz", content, commands))
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert found == ["inner/package/b.txt", "inner/package/data/a.txt"]
    assert not (folder / "package/link").exists()
    assert commands[0][:2] == ["npm", "pack"]
    assert "--ignore-scripts" in commands[0]


@pytest.mark.parametrize(
    ("package", "name", "content"),
    [
        (Wheel("a", "1", sha256(b"other")), "a-1.whl", wheel(FILES)),
        (NpmTarball("a", "1", sha256(b"other")), "a-1.tgz", tarball(FILES)),
    ],
)
def test_another_hash_stops_before_unpacking(
    tmp_path: Path, package: Wheel | NpmTarball, name: str, content: bytes
) -> None:
    with pytest.raises(AssetError, match=r"is not the file that cutlayer knows.*try again"):
        package.fetch(tmp_path, delivering(name, content, []))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_client_that_delivers_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"expected one \*\.whl"):
        Wheel("a", "1", "").fetch(tmp_path, delivering("a.txt", b"", []))


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path: Path) -> None:
    run = failing(lambda command: "pip" in command, "No module named pip")
    with pytest.raises(AssetError, match=r"needs pip in this Python .*ensurepip.*uv pip"):
        Wheel("a", "1", "").fetch(tmp_path, run)


def unpacking(inside: str, content: bytes) -> tuple[list[list[str]], DebianPackages]:
    package = DebianPackages(("some-data", "more-data"), ((inside, sha256(content)),))
    return [], package


def test_debian_packages_are_unpacked_and_their_pinned_files_verified(tmp_path: Path) -> None:
    commands, package = unpacking("usr/share/file", b"right")

    def run(command: list[str], folder: Path) -> None:
        commands.append(command)
        if command[0] == "apt-get":
            (folder / "some-data_1_all.deb").write_bytes(b"")
        else:
            (folder / "usr/share").mkdir(parents=True)
            (folder / "usr/share/file").write_bytes(b"right")

    package.fetch(tmp_path, run)
    assert commands[0][-2:] == ["some-data", "more-data"]
    assert commands[1] == ["dpkg-deb", "-x", "some-data_1_all.deb", "."]
    assert not list(tmp_path.glob("*.deb"))
    assert package.title == "apt some-data, more-data"


def test_debian_packages_are_found_on_a_machine_without_package_lists(tmp_path: Path) -> None:
    commands, package = unpacking("file", b"right")

    def run(command: list[str], folder: Path) -> None:
        commands.append(command)
        own_lists = any(word.startswith("Dir::State::lists=") for word in command)
        if "download" in command and not own_lists:
            raise AssetError("Unable to locate package")
        (folder / "file").write_bytes(b"right")

    package.fetch(tmp_path, run)
    assert [command[-1] for command in commands] == ["more-data", "update", "more-data"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [b"wrong", None])
def test_a_pinned_file_that_is_wrong_or_missing_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    _, package = unpacking("file", b"right")
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(AssetError, match="file"):
        package.fetch(tmp_path, lambda command, folder: None)


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_client_runs_in_the_folder(tmp_path: Path) -> None:
    run_tool(script("open('made.txt', 'w').close()"), tmp_path)
    assert (tmp_path / "made.txt").exists()


@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        ("WARNING: x\\nERROR: the reason\\nERROR: more", "ERROR: the reason"),
        ("tar: No space left on device\\nerror: tar failed", "No space left on device"),
        ("one line\\nlast line", "last line"),
        ("", "no message"),
    ],
)
def test_a_failing_client_is_quoted(tmp_path: Path, complaint: str, expected: str) -> None:
    command = script(f"import sys; sys.stderr.write('{complaint}'); sys.exit(3)")
    with pytest.raises(AssetError, match=expected):
        run_tool(command, tmp_path)


def test_a_missing_client_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no-such-client is not installed here"):
        run_tool(["no-such-client", "get"], tmp_path)
