"""Registries of packages on this machine, for the real pip, npm and apt-get: their newest releases
refuse options that older ones took, which no stand-in of ours would know."""

import contextlib
import gzip
import hashlib
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.assets.kit import tarball, wheel

FILES = {"package/data/a.txt": b"text a", "package/package.json": b'{"name":"x","version":"1"}'}
_INFO = "some_wheel-1.0.dist-info"
WHEEL = wheel(
    FILES
    | {
        f"{_INFO}/METADATA": b"Metadata-Version: 2.1\nName: some-wheel\nVersion: 1\n",
        f"{_INFO}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{_INFO}/RECORD": b"",
    }
)
TARBALL = tarball(FILES)
_WHEEL_NAME = "some_wheel-1.0-py3-none-any.whl"


def python_index() -> dict[str, bytes]:
    """`some-wheel==1.0` as the simple API has it."""
    link = f'<a href="/{_WHEEL_NAME}">{_WHEEL_NAME}</a>'.encode()
    return {"/simple/some-wheel/": b"<!DOCTYPE html>" + link, f"/{_WHEEL_NAME}": WHEEL}


def npm_registry(address: str) -> dict[str, bytes]:
    """`@some/tar@2.0.0`, with its metadata."""
    dist = {
        "tarball": f"{address}/tar.tgz",
        "shasum": hashlib.sha1(TARBALL).hexdigest(),
    }
    version = {"name": "@some/tar", "version": "2.0.0", "dist": dist}
    packument = {
        "name": "@some/tar",
        "dist-tags": {"latest": "2.0.0"},
        "versions": {"2.0.0": version},
    }
    return {"/@some%2ftar": json.dumps(packument).encode(), "/tar.tgz": TARBALL}


def debian_archive(folder: Path) -> dict[str, bytes]:
    """`some-data`, with a file /usr/share/some/file, in a flat archive."""
    root = folder / "some-data"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/share/some").mkdir(parents=True)
    (root / "usr/share/some/file").write_text("right")
    fields = "Package: some-data\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\n"
    (root / "DEBIAN/control").write_text(f"{fields}Description: data\n")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", root, folder / "some-data_1_all.deb"],
        check=True,
        capture_output=True,
    )
    content = (folder / "some-data_1_all.deb").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    entry = (
        f"{fields}Filename: ./some-data_1_all.deb\nSize: {len(content)}\n"
        f"SHA256: {digest}\nDescription: data\n\n"
    )
    return {
        "/./some-data_1_all.deb": content,
        "/some-data_1_all.deb": content,
        "/./Packages.gz": gzip.compress(entry.encode()),
        "/Packages.gz": gzip.compress(entry.encode()),
    }


class Registry:
    """Files over HTTP; `asked`: the paths that were asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []


@contextlib.contextmanager
def serving() -> Iterator[Registry]:
    """A registry that has nothing yet."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.asked.append(self.path)
            content = registry.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", "text/html" if "simple" in self.path else "x/y")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry = Registry(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def alone_with(registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients with empty caches, no settings of this machine's, and this registry alone."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PIP_FIND_LINKS"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    settings = {
        "HOME": folder / "home",
        "XDG_CACHE_HOME": folder / "cache",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": f"{registry.address}/simple/",
        "PIP_NO_CACHE_DIR": "1",
        "npm_config_registry": registry.address,
        "npm_config_cache": folder / "npm",
        "npm_config_userconfig": folder / "npmrc",
        "npm_config_globalconfig": folder / "npmrc-global",
        "npm_config_update_notifier": "false",
        "APT_CONFIG": folder / "apt.conf",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    (folder / "home").mkdir()
    (folder / "sources.list").write_text(f"deb [trusted=yes] {registry.address} ./\n")
    (folder / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{folder}/no-lists";\n'
        f'Dir::Cache "{folder}/apt-cache";\n'
        'Acquire::Languages "none";\n'
    )
