"""A run's keys: who gets a certificate, each refusal, and what is on the disk."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from cutlayer.errors import IdentityError
from cutlayer.net.identity.credentials import InvitationToken, common_name, new_key, signing_request
from cutlayer.net.identity.run_keys import RunKeys, init_keys, read_keys

NOW_S = 1.9e9


@pytest.fixture
def keys(tmp_path: Path) -> RunKeys:
    return init_keys(tmp_path / "keys", NOW_S)


def enrol(keys: RunKeys, token: InvitationToken, now_s: float = NOW_S) -> x509.Certificate:
    request = signing_request(new_key(), token.name)
    return keys.enrol(token.name, token.secret, request, now_s)


def test_folder_and_files_are_the_owners_alone(keys: RunKeys) -> None:
    keys.invite("pi", 60.0, NOW_S)
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    files = list(keys.folder.iterdir())
    assert len(files) == 7
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_revoked_device_is_gone_until_it_is_invited_again(keys: RunKeys) -> None:
    enrol(keys, keys.invite("pi", 60.0, NOW_S))
    assert not keys.certificates().gone("pi")
    keys.revoke("pi", NOW_S)
    assert keys.certificates().gone("pi")
    keys.invite("pi", 60.0, NOW_S)
    assert not keys.certificates().gone("pi")


def test_nothing_is_overwritten(keys: RunKeys) -> None:
    before = (keys.folder / "authority.key").read_bytes()
    with pytest.raises(IdentityError, match="no key is ever overwritten"):
        init_keys(keys.folder, NOW_S)
    assert (keys.folder / "authority.key").read_bytes() == before


def test_keys_come_back(keys: RunKeys) -> None:
    again = read_keys(keys.folder)
    assert again.authority.certificate == keys.authority.certificate
    assert again.server_pem == keys.server_pem


def test_keys_that_others_may_read_are_not_used(keys: RunKeys) -> None:
    (keys.folder / "authority.key").chmod(0o640)
    with pytest.raises(IdentityError, match=r"authority\.key: others may read it \(mode 640\)"):
        read_keys(keys.folder)


def test_no_keys(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"missing; `cutlayer keys init` makes"):
        read_keys(tmp_path)


def test_an_invitation_gives_one_certificate(keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)
    certificate = enrol(keys, token, NOW_S + 60.0)
    assert common_name(certificate) == "pi"
    assert keys.certificates().valid("pi", certificate.serial_number)
    with pytest.raises(IdentityError, match="a used, revoked or unknown token of pi"):
        enrol(keys, token)


def test_an_invitation_expires(keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)
    with pytest.raises(IdentityError, match="the token of pi has expired"):
        enrol(keys, token, NOW_S + 60.1)
    assert keys.certificates().issued == ()


def test_a_newer_invitation_voids_the_older(keys: RunKeys) -> None:
    older = keys.invite("pi", 60.0, NOW_S)
    newer = keys.invite("pi", 60.0, NOW_S)
    with pytest.raises(IdentityError, match="not given, or was replaced"):
        enrol(keys, older)
    enrol(keys, newer)


def test_a_token_is_good_for_its_own_name_alone(keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)
    keys.invite("other", 60.0, NOW_S)
    for name in ("other", "nobody", "../pi"):
        with pytest.raises(IdentityError):
            enrol(keys, InvitationToken(name, token.secret, token.authority))


def test_a_token_that_was_refused_for_its_request_is_still_good(keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)
    with pytest.raises(IdentityError, match="not a certificate signing request"):
        keys.enrol("pi", token.secret, b"noise", NOW_S)
    enrol(keys, token)


def test_revoking_counts_at_once_and_for_good(keys: RunKeys) -> None:
    certificate = enrol(keys, keys.invite("pi", 60.0, NOW_S))
    assert [one.serial for one in keys.revoke("pi", NOW_S + 1)] == [certificate.serial_number]
    assert not read_keys(keys.folder).certificates().valid("pi", certificate.serial_number)
    again = enrol(keys, keys.invite("pi", 60.0, NOW_S))
    assert keys.certificates().valid("pi", again.serial_number)
    assert not keys.certificates().valid("pi", certificate.serial_number)


def test_revoking_voids_the_invitation(keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)
    assert keys.revoke("pi", NOW_S) == ()
    with pytest.raises(IdentityError, match="revoked"):
        enrol(keys, token)


def test_enrolling_anew_revokes_the_older_certificate(keys: RunKeys) -> None:
    older = enrol(keys, keys.invite("pi", 60.0, NOW_S))
    token = keys.invite("pi", 60.0, NOW_S)
    assert keys.certificates().valid("pi", older.serial_number)
    newer = enrol(keys, token)
    assert not keys.certificates().valid("pi", older.serial_number)
    assert keys.certificates().valid("pi", newer.serial_number)


def test_a_certificate_counts_for_its_own_name_alone(keys: RunKeys) -> None:
    certificate = enrol(keys, keys.invite("pi", 60.0, NOW_S))
    assert not keys.certificates().valid("other", certificate.serial_number)
    assert not keys.certificates().valid("pi", certificate.serial_number + 1)


def test_whom_nobody_knows_cannot_be_revoked(keys: RunKeys) -> None:
    with pytest.raises(IdentityError, match="no device was invited yet"):
        keys.revoke("pi", NOW_S)
    keys.invite("pi-1", 60.0, NOW_S)
    with pytest.raises(IdentityError, match="did you mean pi-1"):
        keys.revoke("pi-2", NOW_S)


def test_no_secret_is_on_the_disk(keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)
    kept = b"".join(file.read_bytes() for file in keys.folder.iterdir())
    assert token.secret not in kept
    assert token.secret.hex().encode() not in kept
    assert token.text().split(".")[2].encode() not in kept


def test_changes_at_once_are_all_kept(keys: RunKeys) -> None:
    names = [f"pi-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda name: keys.invite(name, 60.0, NOW_S), names))
        assert sorted(keys.certificates().invitations) == sorted(names)
        list(pool.map(lambda token: enrol(keys, token), tokens))
    certificates = keys.certificates()
    assert not certificates.invitations
    assert sorted(one.name for one in certificates.issued) == sorted(names)


def test_a_token_tried_at_once_is_used_once(keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)

    def attempt(_: int) -> bool:
        try:
            enrol(keys, token)
        except IdentityError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "null", '{"format": 1}'])
def test_damaged_certificates_let_nobody_in(text: str, keys: RunKeys) -> None:
    token = keys.invite("pi", 60.0, NOW_S)
    (keys.folder / "devices.json").write_text(text)
    with pytest.raises(IdentityError, match="not a device registry"):
        enrol(keys, token)


def test_the_certificates_say_what_happened(keys: RunKeys) -> None:
    certificate = enrol(keys, keys.invite("pi", 60.0, NOW_S))
    keys.revoke("pi", NOW_S + 5)
    fields = json.loads((keys.folder / "devices.json").read_text())
    assert fields["issued"] == [
        {
            "name": "pi",
            "serial": f"{certificate.serial_number:x}",
            "issued_s": NOW_S,
            "revoked_s": NOW_S + 5,
        }
    ]
