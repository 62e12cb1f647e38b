"""What `cutlayer join` says before it has a server."""

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from net.ends import enrolled, run_keys, serving

from cutlayer.cli.main import main
from cutlayer.net.identity.credentials import (
    InvitationToken,
    make_private_folder,
    write_device_keys,
)
from cutlayer.net.identity.run_keys import RunKeys

TOKEN = InvitationToken("pi", b"s" * 32, b"a" * 32).text()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_neither_identity_nor_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "join",
        "127.0.0.1:1",
        "--data",
        str(tmp_path),
        "--identity",
        str(tmp_path / "identity"),
    ]
    assert main(words) == 2
    assert "`cutlayer keys invite NAME` on the server" in capsys.readouterr().err


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The token is not used up, and is not shown."""
    identity = tmp_path / "identity"
    words = [
        "join",
        f"127.0.0.1:{_free_port()}",
        "--data",
        str(tmp_path),
        "--identity",
        str(identity),
    ]
    assert main([*words, "--token", TOKEN, "--patience", "1"]) == 75
    said = capsys.readouterr().err
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[-1]["level"] == "error" and "no server at 127.0.0.1" in lines[-1]["message"]
    assert TOKEN.split(".")[2] not in said
    assert not identity.exists()


def test_data_that_are_not_there_are_found_before_the_token_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the server is asked for anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        words = ["join", f"127.0.0.1:{server.getsockname()[1]}", "--data", str(tmp_path / "photo")]
        words += ["--identity", str(tmp_path / "identity"), "--patience", "1"]
        assert main([*words, "--token", TOKEN]) == 2
        with pytest.raises(TimeoutError):
            server.accept()
    assert (
        "photo: no such file or folder; give this device's samples as data (--data)"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "identity").exists()


async def _said_by_join(keys: RunKeys, folder: Path, *words: str) -> tuple[int, list[str]]:
    """The exit code of `cutlayer join` on the texts in `folder`, and what the server said."""
    async with serving(keys) as served:
        own = ["--data", str(folder / "own.jsonl"), "--identity", str(folder / "identity")]
        return await asyncio.to_thread(main, ["join", served.address, *own, *words]), served.said


def test_a_class_that_the_run_does_not_have_keeps_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device never comes in, so that no number is its, and the token is good for the next."""
    keys = run_keys(tmp_path / "keys")
    (tmp_path / "own.jsonl").write_text('{"text": "good", "label": "positive"}\n')
    token = keys.invite("pi", 60.0, time.time())
    code, said = asyncio.run(_said_by_join(keys, tmp_path, "--token", token.text()))
    assert code == 2 and said == []
    assert "'positive'; it knows neg, pos" in capsys.readouterr().err
    assert not (tmp_path / "identity").exists()
    assert "pi" in keys.certificates().invitations and not keys.certificates().issued


def test_a_damaged_state_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any server is asked for."""
    identity = tmp_path / "identity"
    make_private_folder(identity)
    write_device_keys(identity, enrolled(run_keys(tmp_path / "keys"), "pi"))
    (identity / "run.safetensors").write_bytes(b"\0" * 100)
    assert main(["join", "127.0.0.1:1", "--data", str(tmp_path), "--identity", str(identity)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "run.safetensors cannot be read" in said and "delete it" in said
