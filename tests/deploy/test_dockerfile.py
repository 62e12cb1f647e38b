"""The Dockerfile: what it copies and installs exists, what it starts is ours, and health is asked.

Docker itself is not needed; nothing is built.
"""

import asyncio
import fnmatch
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest
from net import watched

from cutlayer.net.operations.status import RunStatus
from cutlayer.net.operations.web import Answer, Operations
from cutlayer.net.wire.listener import LOOPBACK
from deploy.command_line import accepted

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined."""

    name: str
    rest: str


def instructions() -> list[Instruction]:
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def all_of(name: str) -> list[str]:
    return [one.rest for one in instructions() if one.name == name]


def last(name: str) -> str:
    return all_of(name)[-1]


def project() -> dict[str, object]:
    settings: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return settings


def ignored(path: str) -> bool:
    """Whether the build does not see a path, by the last pattern that fits."""
    found = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if not line.startswith("#") and fnmatch.fnmatch(path, pattern):
            found = not line.startswith("!")
    return found


def test_every_instruction_is_one() -> None:
    known = "FROM ARG RUN COPY ENV USER WORKDIR VOLUME EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD"
    assert {one.name for one in instructions()} <= set(known.split())


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copies = [rest for rest in all_of("COPY") if not rest.startswith("--from=")]
    sources = [word for rest in copies for word in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists() and not ignored(source), source


def test_the_build_needs_no_more_files_than_it_copies() -> None:
    """What `pyproject.toml` names of the project's own is copied."""
    copied = " ".join(all_of("COPY")).split()
    settings = project()
    names = [str(settings["readme"]), *settings["license-files"]]  # type: ignore[misc]
    assert {*names, "pyproject.toml", "src"} <= set(copied)


def test_what_it_installs_has_a_name_here() -> None:
    (extras,) = re.findall(r'pip install .*"/build\[([\w,]+)\]"', " ".join(all_of("RUN")))
    assert set(extras.split(",")) <= set(project()["optional-dependencies"])  # type: ignore[call-overload]
    asked = str(project()["requires-python"]).removeprefix(">=").split(".")
    for image in all_of("FROM"):
        (version,) = re.findall(r"^python:(\d+\.\d+)-slim", image)
        assert list(map(int, version.split("."))) >= list(map(int, asked))


def test_it_runs_as_nobody_special_and_gets_signals_itself() -> None:
    (user,) = re.findall(r"useradd .*?(\w+)$", " ".join(all_of("RUN")))
    assert last("USER") == user
    assert last("STOPSIGNAL") == "SIGTERM"
    # the form of a list: no shell between the signal and the server
    assert json.loads(last("ENTRYPOINT")) == ["cutlayer"]
    home = last("WORKDIR")
    assert home in json.loads(last("VOLUME"))
    assert f"--home-dir {home} --create-home" in " ".join(all_of("RUN"))


def test_what_it_starts_is_a_command_of_ours() -> None:
    arguments = accepted(json.loads(last("CMD")))
    assert arguments.go_on
    ports = {text.rpartition(":")[2] for text in (arguments.listen, arguments.operators)}
    assert ports == set(last("EXPOSE").split())


def _check(port: int) -> list[str]:
    """The health check's command, asking at another port and by this Python."""
    words: list[str] = json.loads(last("HEALTHCHECK").split(" CMD ", 1)[1])
    assert words[0] == "python" and ":7701/" in words[-1]
    return [sys.executable, *words[1:-1], words[-1].replace(":7701/", f":{port}/")]


async def _healthy(status: RunStatus) -> bool:
    page = Operations(Answer(HTTPStatus.OK, "text/html", b""), lambda: status, lambda _: ())
    port = await page.open(LOOPBACK, 0)
    try:
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*_check(port), stderr=null)
        return await process.wait() == 0
    finally:
        await page.close()


@pytest.mark.parametrize("failure", [None, "cannot write runs"])
def test_health_is_what_the_server_says(failure: str | None) -> None:
    status, _ = watched.running()
    process = status.process.model_copy(update={"failure": failure})
    status = status.model_copy(update={"process": process})
    assert asyncio.run(_healthy(status)) is (failure is None)
