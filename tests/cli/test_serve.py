"""What `cutlayer serve` says before it serves."""

import socket
from pathlib import Path

import pytest
from net.ends import run_keys

from cutlayer.cli.main import main


@pytest.mark.parametrize(
    ("setting", "value", "readers"),
    [
        ("devices.device", "cuda", "the simulator (`cutlayer train`)"),
        ("server.workers", "2", "the simulator (`cutlayer train`) and `cutlayer plan`"),
    ],
)
def test_what_a_real_server_does_not_read_is_refused(
    setting: str, value: str, readers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", f"--{setting}", value]) == 2
    told = f"--{setting} is read by {readers} alone: leave it out here"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--listen", "--operators"])
def test_a_port_that_is_taken_is_found_before_a_run_directory_is_made(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, output = run_keys(tmp_path / "keys").folder, tmp_path / "runs"
    doors = {"--listen": "127.0.0.1:0", "--operators": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        doors[option] = f"127.0.0.1:{taken.getsockname()[1]}"
        words = [word for pair in doors.items() for word in pair]
        assert main(["serve", "--keys", str(keys), "--output", str(output), *words]) == 75
    err = capsys.readouterr().err
    assert f"cannot listen on {doors[option]}: " in err and option in err
    assert not output.exists()
