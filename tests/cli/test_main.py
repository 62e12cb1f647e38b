"""What the command line makes of errors that are nobody's in particular."""

import argparse
import ast
import errno
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import cutlayer
from cutlayer.cli.main import guarded, main, what_the_system_says
from cutlayer.errors import ConfigError, RunError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "runs"), "runs: Permission denied"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "Connection refused"),
        (OSError("what a library says"), "what a library says"),
    ],
)
def test_an_error_of_the_system_blames_nobody_else(error: OSError, said: str) -> None:
    assert what_the_system_says(error) == said


def test_a_warning_is_one_line_without_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: argparse.Namespace) -> int:
        warnings.warn("the codec is slow\nwithout its C part", RuntimeWarning, stacklevel=2)
        return 0

    monkeypatch.setattr("cutlayer.cli.settings.run_examples", run)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["examples"]) == 0
    said = capsys.readouterr().err
    assert said == "cutlayer: warning: the codec is slow without its C part\n"


def test_a_command_does_not_look_for_garbage_as_it_ends() -> None:
    """With torch loaded that takes a second, on a busy machine seven. What is registered first
    comes last."""
    code = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
        "from cutlayer.cli.main import main\n"
        "main(['codec', '--no-such-option'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("words", ["train --help", "--help", "config schema"])
def test_a_reader_that_has_enough_ends_a_command_quietly(words: str) -> None:
    """As `head -1` does, and before the first line: what is longer than a pipe holds, and what is
    not and would be written as the process ends."""
    command = [sys.executable, "-m", "cutlayer", *words.split()]
    # unbuffered, argparse itself passes over what it cannot write, and all is well
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("typed", ["-10", "-1e1", "-1E+1", "-10.", "-1_0"])
def test_a_negative_number_is_the_value_of_the_option_before_it(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--devices.uplink-snr-db", typed, "--print-config"]) == 0
    assert "  uplink_snr_db: -10.0\n" in capsys.readouterr().out


@pytest.mark.parametrize("typed", ["-inf", "-nan", "-1e400"])
def test_a_negative_number_out_of_bounds_is_named(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--devices.uplink-snr-db", typed]) == 2
    assert "devices.uplink_snr_db: should be a finite number" in capsys.readouterr().err


def test_what_mends_an_error_has_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages speak to programs as well: the command line adds its own word."""

    def refuse() -> int:
        try:
            raise ConfigError("cannot write /x; choose another output", thing="output")
        except ConfigError as error:
            raise RunError(f"a: {error}") from error

    assert guarded(refuse) == 2
    told = capsys.readouterr().err
    assert told == "cutlayer: a: cannot write /x; choose another output (--output)\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("can't allocate memory"),
    ],
)
def test_memory_that_is_not_there_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(error: Exception) -> int:
        raise error

    assert guarded(lambda: run(error)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cutlayer: there is not enough memory: lower training.batch_size")
    assert line.endswith(f"before a run: {error}".removesuffix(": "))
    with pytest.raises(RuntimeError, match="another"):
        guarded(lambda: run(RuntimeError("another")))


def test_no_message_to_programs_speaks_of_options() -> None:
    """But for those that are of a command alone (`jobs.compare.wanted_runs` reads its words), and
    whole commands."""
    root = Path(cutlayer.__file__).parent
    commands = ("cli/", "jobs/compare")
    told = {
        f"{path.relative_to(root)}: {part.value}"
        for path in root.rglob("*.py")
        if not str(path.relative_to(root)).startswith(commands)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and re.search(r"(^|\s)--[a-z]", str(part.value))
        if "`cutlayer " not in str(part.value)
    }
    assert told == set()
