"""A run's keys on the server: making them, inviting, enrolling and revoking devices.

Knows the folder and what may happen when; nothing of connections. Time is passed in, in seconds
since 1970 as `time.time()` gives them.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, final

from cryptography import x509

from cutlayer import files
from cutlayer.errors import IdentityError, RunError, nearest
from cutlayer.files import write_json
from cutlayer.net.identity.credentials import (
    InvitationToken,
    SecretHash,
    Signed,
    certificate_pem,
    device_certificate,
    fingerprint,
    hash_secret,
    key_pem,
    make_private_folder,
    new_authority,
    new_token,
    read_private,
    read_signed,
    replace_private,
    requested_key,
    server_identity,
    write_private,
)
from cutlayer.net.wire.link import device_name

# Who was invited and whose certificates were issued or revoked, as one file.
#
# Knows the file, its lock and its format; decides nothing. Another process may change it at any
# moment (`cutlayer keys revoke` while the server runs), so every change happens under a lock and
# replaces the file by rename. Secrets are in it as salted hashes only.


_FORMAT = 1
NO_KEYS = "`cutlayer keys init` makes a run's keys"


@dataclass(frozen=True)
class Invitation:
    """A device that may enrol: the hash of its secret, and until when [s since 1970]."""

    secret: SecretHash
    expires_s: float


@dataclass(frozen=True)
class Issued:
    """A certificate: whose, its serial number, when it was made and revoked [s since 1970]."""

    name: str
    serial: int
    issued_s: float
    revoked_s: float | None = None


@dataclass(frozen=True)
class CertificateStore:
    """All invitations that are open, by device, and all certificates in the order of issue."""

    invitations: Mapping[str, Invitation] = field(default_factory=dict)
    issued: tuple[Issued, ...] = ()

    def valid(self, name: str, serial: int) -> bool:
        """Whether this certificate was issued to `name` and is not revoked."""
        return (name, serial) in self._valid

    @cached_property
    def _valid(self) -> frozenset[tuple[str, int]]:
        """Asked for all devices that are connected, again and again."""
        return frozenset((one.name, one.serial) for one in self.issued if one.revoked_s is None)

    def gone(self, name: str) -> bool:
        """Whether `name` has been revoked, and not been invited again."""
        valid = any(one.name == name and one.revoked_s is None for one in self.issued)
        return not valid and name not in self.invitations

    def invite(self, name: str, invitation: Invitation) -> "CertificateStore":
        """With `name` invited; an older invitation of it is void."""
        return replace(self, invitations={**self.invitations, name: invitation})

    def uninvite(self, name: str) -> "CertificateStore":
        """Without an invitation of `name`."""
        rest = {other: one for other, one in self.invitations.items() if other != name}
        return replace(self, invitations=rest)

    def issue(self, name: str, serial: int, now_s: float) -> "CertificateStore":
        """With one more certificate."""
        return replace(self, issued=(*self.issued, Issued(name, serial, now_s)))

    def revoke(self, name: str, now_s: float) -> "CertificateStore":
        """With all certificates of `name` revoked; when one was already, the time stays."""
        return replace(
            self,
            issued=tuple(
                replace(one, revoked_s=now_s) if one.name == name and one.revoked_s is None else one
                for one in self.issued
            ),
        )


def read_certificates(path: Path) -> CertificateStore:
    """The device registry as it is now. Raises IdentityError if it is missing or not one."""
    try:
        return _certificates(json.loads(read_private(path, NO_KEYS)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IdentityError(f"{path}: not a device registry; restore it from a backup") from None


def write_certificates(path: Path, certificates: CertificateStore) -> None:
    """Put `certificates` in the place of the file that is there. Raises OSError."""
    replace_private(path, json.dumps(_fields(certificates), indent=1).encode() + b"\n")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else changes the registry at `path` meanwhile, in whatever process."""
    lock = path.with_name(f".{path.name}.lock")
    with files.locked(lock):
        yield


def _certificates(fields: Any) -> CertificateStore:
    if fields["format"] != _FORMAT:
        raise ValueError(fields["format"])
    return CertificateStore(
        {
            name: Invitation(
                SecretHash(bytes.fromhex(one["salt"]), bytes.fromhex(one["digest"])),
                float(one["expires_s"]),
            )
            for name, one in fields["invitations"].items()
        },
        tuple(
            Issued(one["name"], int(one["serial"], 16), one["issued_s"], one["revoked_s"])
            for one in fields["issued"]
        ),
    )


def _fields(certificates: CertificateStore) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "invitations": {
            name: {
                "salt": one.secret.salt.hex(),
                "digest": one.secret.digest.hex(),
                "expires_s": one.expires_s,
            }
            for name, one in certificates.invitations.items()
        },
        "issued": [
            {
                "name": one.name,
                "serial": f"{one.serial:x}",
                "issued_s": one.issued_s,
                "revoked_s": one.revoked_s,
            }
            for one in certificates.issued
        ],
    }


_AUTHORITY_KEY = "authority.key"
_AUTHORITY = "authority.crt"
_SERVER_KEY = "server.key"
_SERVER = "server.crt"
_CERTIFICATES = "devices.json"


@dataclass(frozen=True)
class RunKeys:
    """A folder of `init_keys`, read: the authority, the server's identity, the device registry."""

    folder: Path
    authority: Signed = field(repr=False)
    server: Signed = field(repr=False)

    @property
    def authority_pem(self) -> bytes:
        """The authority's certificate as text."""
        return certificate_pem([self.authority.certificate])

    @property
    def server_pem(self) -> tuple[bytes, bytes]:
        """The server's key and its certificate as texts, for TLS."""
        return key_pem(self.server.key), certificate_pem([self.server.certificate])

    @property
    def server_files(self) -> tuple[Path, Path]:
        """Where the server's certificate and its key are."""
        return self.folder / _SERVER, self.folder / _SERVER_KEY

    def certificates(self) -> CertificateStore:
        """Who is invited and whose certificates count, now. Raises IdentityError."""
        return read_certificates(self.folder / _CERTIFICATES)

    def invite(self, name: str, valid_s: float, now_s: float) -> InvitationToken:
        """An invitation of `name` for `valid_s` seconds; an older one is void.

        A device that has a certificate keeps it until the new one is fetched.
        Raises IdentityError.
        """
        token = new_token(name, fingerprint(self.authority.certificate))
        invitation = Invitation(hash_secret(token.secret), now_s + valid_s)
        with locked(self.folder / _CERTIFICATES):
            self._write(self.certificates().invite(name, invitation))
        return token

    def check_invitation(self, name: str, secret: bytes, now_s: float) -> None:
        """Raises IdentityError, as `enrol` does, unless `name` may enrol; nothing is used up."""
        _check_invitation(self.certificates(), device_name(name), secret, now_s)

    def enrol(self, name: str, secret: bytes, request: bytes, now_s: float) -> x509.Certificate:
        """The certificate of `name` for the key that signed `request` [DER].

        The invitation is used up, and older certificates of `name` are revoked, before the
        certificate leaves. Raises IdentityError with the reason of a refusal: for the log, and
        not for a stranger.
        """
        name = device_name(name)
        with locked(self.folder / _CERTIFICATES):
            certificates = self.certificates()
            _check_invitation(certificates, name, secret, now_s)
            key = requested_key(request)
            now = datetime.fromtimestamp(now_s, UTC)
            certificate = device_certificate(self.authority, name, key, now)
            certificates = certificates.uninvite(name).revoke(name, now_s)
            self._write(certificates.issue(name, certificate.serial_number, now_s))
        return certificate

    def revoke(self, name: str, now_s: float) -> tuple[Issued, ...]:
        """Make certificates and the invitation of `name` void; the certificates that were valid.

        Raises IdentityError if `name` has neither.
        """
        with locked(self.folder / _CERTIFICATES):
            certificates = self.certificates()
            valid = tuple(
                one for one in certificates.issued if one.name == name and one.revoked_s is None
            )
            if not valid and name not in certificates.invitations:
                raise IdentityError(f"nothing of {name!r} to revoke; {_hint(name, certificates)}")
            self._write(certificates.uninvite(name).revoke(name, now_s))
        return valid

    def _write(self, certificates: CertificateStore) -> None:
        write_certificates(self.folder / _CERTIFICATES, certificates)


def init_keys(folder: Path, now_s: float) -> RunKeys:
    """A new run: an authority of its own, the server's identity, no device.

    Raises IdentityError if `folder` holds anything, OSError if the disk refuses.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    authority = new_authority(now)
    keys = RunKeys(folder, authority, server_identity(authority, now))
    make_private_folder(folder)
    server_key, server = keys.server_pem
    write_private(folder / ".gitignore", b"*\n")  # keys are for no repository
    write_private(folder / _AUTHORITY_KEY, key_pem(authority.key))
    write_private(folder / _AUTHORITY, keys.authority_pem)
    write_private(folder / _SERVER_KEY, server_key)
    write_private(folder / _SERVER, server)
    write_certificates(folder / _CERTIFICATES, CertificateStore())
    return keys


def read_keys(folder: Path) -> RunKeys:
    """The keys that `init_keys` left. Raises IdentityError."""

    def signed(key: str, certificate: str) -> Signed:
        paths = folder / key, folder / certificate
        return read_signed(*(read_private(path, NO_KEYS) for path in paths))

    return RunKeys(folder, signed(_AUTHORITY_KEY, _AUTHORITY), signed(_SERVER_KEY, _SERVER))


def _check_invitation(
    certificates: CertificateStore, name: str, secret: bytes, now_s: float
) -> None:
    invitation = certificates.invitations.get(name)
    if invitation is None:
        raise IdentityError(f"a used, revoked or unknown token of {name}")
    if not invitation.secret.matches(secret):
        raise IdentityError(f"a token of {name} that was not given, or was replaced by a newer one")
    if now_s > invitation.expires_s:
        raise IdentityError(f"the token of {name} has expired; invite {name} again")


def _hint(name: str, certificates: CertificateStore) -> str:
    known = sorted({one.name for one in certificates.issued} | set(certificates.invitations))
    return nearest(name, known) if known else "no device was invited yet"


# Which number a device has in a run: its name is in its certificate, its number in every seed.
#
# Knows names and a file; nothing of links.


@final
class DeviceRegistry:
    """The devices of a run in the file at `path`: those of `pinned`, or the first `count` to come.

    Raises RunError for a file that cannot be read.
    """

    def __init__(self, path: Path, count: int, pinned: tuple[str, ...]) -> None:
        self._path = path
        self._count = count
        self._pinned = bool(pinned)
        self._names = list(pinned) if pinned else _read(path)

    def number(self, name: str) -> int | None:
        """The number of the device `name`, on disk before it is told; None: the run is without it.

        Raises RunError if the disk refuses.
        """
        if name in self._names:
            return self._names.index(name)
        if len(self._names) == self._count:
            return None
        write_json(self._path, [*self._names, name])
        self._names.append(name)
        return len(self._names) - 1

    def succeed(self, name: str, gone: Callable[[str], bool]) -> int | None:
        """The first number whose device is `gone`, and `name`'s from now on; None: there is none.

        Pinned numbers are not given to others. Raises RunError if the disk refuses.
        """
        number = next((n for n, own in enumerate(self._names) if gone(own)), None)
        if number is None or self._pinned:
            return None
        names = [*self._names[:number], name, *self._names[number + 1 :]]
        write_json(self._path, names)
        self._names = names
        return number

    def name(self, number: int) -> str | None:
        """Whose number it is; None while it is nobody's."""
        return self._names[number] if number < len(self._names) else None


def _read(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}; restore it from a backup") from error
