"""The systemd units: read as systemd reads them, with commands that are ours."""

import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser, SectionProxy
from pathlib import Path

import pytest

from deploy.command_line import accepted

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
SERVER, DEVICE = DEPLOY / "cutlayer.service", DEPLOY / "cutlayer-join.service"
VERIFIER = shutil.which("systemd-analyze")


def service(path: Path) -> SectionProxy:
    """The section of what is run; of a key that is given twice, the last."""
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    assert set(parser.sections()) == {"Unit", "Service", "Install"}
    return parser["Service"]


def command(path: Path) -> list[str]:
    """The words of what is started, with the unit's own variables put in."""
    text = path.read_text(encoding="utf-8")
    variables = dict(
        word.split("=", 1)
        for line in re.findall("^Environment=(.*)$", text, re.M)
        for word in shlex.split(line)
    )
    line = service(path)["ExecStart"]
    return shlex.split(re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], line))


def test_both_ends_have_one() -> None:
    assert {SERVER, DEVICE} == set(UNITS)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_what_it_starts_is_a_command_of_ours(path: Path) -> None:
    program, *words = command(path)
    assert program == "/opt/cutlayer/bin/cutlayer"
    accepted(words)


def test_the_server_goes_on_and_answers_operators_on_loopback_alone() -> None:
    arguments = accepted(command(SERVER)[1:])
    assert arguments.go_on
    assert arguments.operators == "127.0.0.1:7701"


def test_a_device_reads_its_invitation_where_the_unit_puts_it() -> None:
    assert accepted(command(DEVICE)[1:]).token == "-"
    assert service(DEVICE)["StandardInput"] == "file:/etc/cutlayer/token"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_it_writes_only_into_its_own_folders(path: Path) -> None:
    own = service(path)
    assert own["ProtectSystem"] == "strict" and own["NoNewPrivileges"] == "yes"
    assert own["User"] != "root" and own["CapabilityBoundingSet"] == ""
    folders = (f"/var/lib/{own['StateDirectory']}", f"/var/cache/{own['CacheDirectory']}")
    arguments = vars(accepted(command(path)[1:]))
    written = [arguments[key] for key in ("keys", "output", "identity") if key in arguments]
    assert written
    for folder in written:
        assert str(folder).startswith(folders)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
@pytest.mark.skipif(VERIFIER is None, reason="no systemd-analyze: apt-get install systemd")
def test_systemd_finds_nothing_wrong(path: Path, tmp_path: Path) -> None:
    assert VERIFIER is not None
    copy = tmp_path / path.name
    # the program is not installed here
    copy.write_text(path.read_text().replace("/opt/cutlayer/bin/cutlayer", "/bin/true"))
    done = subprocess.run(
        [VERIFIER, "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
