"""`cutlayer keys`: what each action prints, keeps and refuses."""

import stat
import sys
import time
from pathlib import Path

import pytest

from cutlayer.cli.main import main
from cutlayer.net.identity.credentials import new_key, read_token, signing_request
from cutlayer.net.identity.run_keys import CertificateStore, read_keys


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys in the default place."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "init"]) == 0
    return tmp_path / "keys"


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    assert main(["keys", "list"]) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_init_makes_the_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run" / "keys"
    assert main(["keys", "init", "--keys", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert main(["keys", "init", "--keys", str(folder)]) == 2
    assert "no key is ever overwritten" in capsys.readouterr().err


def test_an_invitation_is_a_token_alone_on_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["keys", "invite", "pi", "--minutes", "5"]) == 0
    out, err = capsys.readouterr()
    token = read_token(out)
    assert token.name == "pi" and out.count("\n") == 1
    assert token.text() not in err and "once" in err
    (name, state, _, certificate) = rows(capsys)[0]
    assert (name, state, certificate) == ("pi", "invited", "")
    invitation = read_keys(folder).certificates().invitations["pi"]
    assert abs(invitation.expires_s - time.time()) <= 300.0


def test_a_device_from_invited_to_revoked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "invite", "pi"])
    token = read_token(capsys.readouterr().out.splitlines()[-1])
    request = signing_request(new_key(), "pi")
    certificate = read_keys(folder).enrol("pi", token.secret, request, time.time())
    serial = f"{certificate.serial_number:x}"
    assert [(row[0], row[1], row[3]) for row in rows(capsys)] == [("pi", "joined", serial)]
    assert main(["keys", "revoke", "pi"]) == 0
    assert capsys.readouterr().out == "pi: revoked\n"
    assert [(row[0], row[1], row[3]) for row in rows(capsys)] == [("pi", "revoked", serial)]
    assert main(["keys", "invite", "pi"]) == 0
    assert main(["keys", "revoke", "pi"]) == 0
    assert capsys.readouterr().out.endswith("pi: its invitation is void\n")


def test_an_invitation_that_has_expired_is_listed_as_such(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read_keys(folder).invite("pi", -1.0, time.time())
    capsys.readouterr()
    assert rows(capsys)[0][1] == "invitation expired"


def test_a_terminal_gets_a_table(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["keys", "invite", "pi"])
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["keys", "list"]) == 0
    out = capsys.readouterr().out
    assert "since or until" in out and "invited" in out and "keys: keys" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["invite"], "which device? give its name"),
        (["revoke"], "which device? give its name"),
        (["invite", "Pi"], "no name for a device: 'Pi'"),
        (["invite", "pi", "--minutes", "0"], "not a whole number from 1 on"),
        (["invite", "pi", "--minutes", "99999999999"], "valid for 527040 minutes at most"),
        (["invite", "pi", "--minutes", "9" * 400], "valid for 527040 minutes at most"),
        (["revoke", "pi"], "no device was invited yet"),
        (["renew", "pi"], "invalid choice"),
        (["list", "--keys", "elsewhere"], "`cutlayer keys init` makes a run's keys"),
    ],
)
def test_a_mistake_gets_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["keys", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert read_keys(folder).certificates() == CertificateStore()
