"""A run's keys on the server: making them, inviting, enrolling and revoking devices.

Knows the folder and what may happen when; nothing of connections. Time is passed in, in seconds
since 1970 as `time.time()` gives them.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from cutlayer.errors import IdentityError
from cutlayer.net.identity.certificates import (
    Signed,
    certificate_pem,
    device_certificate,
    fingerprint,
    key_pem,
    new_authority,
    read_signed,
    requested_key,
    server_identity,
)
from cutlayer.net.identity.names import device_name
from cutlayer.net.identity.private_files import (
    make_private_folder,
    read_private,
    write_private,
)
from cutlayer.net.identity.register import (
    NO_KEYS,
    Invitation,
    Issued,
    Register,
    locked,
    read_register,
    write_register,
)
from cutlayer.net.identity.token import Token, hash_secret, new_token
from cutlayer.words import nearest

_AUTHORITY_KEY = "authority.key"
_AUTHORITY = "authority.crt"
_SERVER_KEY = "server.key"
_SERVER = "server.crt"
_REGISTER = "devices.json"


@dataclass(frozen=True)
class RunKeys:
    """A folder of `init_keys`, read: the authority, the server's identity, and the register."""

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

    def register(self) -> Register:
        """Who is invited and whose certificates count, now. Raises IdentityError."""
        return read_register(self.folder / _REGISTER)

    def invite(self, name: str, valid_s: float, now_s: float) -> Token:
        """An invitation of `name` for `valid_s` seconds; an older one is void.

        A device that has a certificate keeps it until the new one is fetched.
        Raises IdentityError.
        """
        token = new_token(name, fingerprint(self.authority.certificate))
        invitation = Invitation(hash_secret(token.secret), now_s + valid_s)
        with locked(self.folder / _REGISTER):
            self._write(self.register().invite(name, invitation))
        return token

    def check_invitation(self, name: str, secret: bytes, now_s: float) -> None:
        """Raises IdentityError, as `enrol` does, unless `name` may enrol; nothing is used up."""
        _check_invitation(self.register(), device_name(name), secret, now_s)

    def enrol(self, name: str, secret: bytes, request: bytes, now_s: float) -> x509.Certificate:
        """The certificate of `name` for the key that signed `request` [DER].

        The invitation is used up, and older certificates of `name` are revoked, before the
        certificate leaves. Raises IdentityError with the reason of a refusal: for the log, and
        not for a stranger.
        """
        name = device_name(name)
        with locked(self.folder / _REGISTER):
            register = self.register()
            _check_invitation(register, name, secret, now_s)
            key = requested_key(request)
            now = datetime.fromtimestamp(now_s, UTC)
            certificate = device_certificate(self.authority, name, key, now)
            register = register.uninvite(name).revoke(name, now_s)
            self._write(register.issue(name, certificate.serial_number, now_s))
        return certificate

    def revoke(self, name: str, now_s: float) -> tuple[Issued, ...]:
        """Make certificates and the invitation of `name` void; the certificates that were valid.

        Raises IdentityError if `name` has neither.
        """
        with locked(self.folder / _REGISTER):
            register = self.register()
            valid = tuple(
                one for one in register.issued if one.name == name and one.revoked_s is None
            )
            if not valid and name not in register.invitations:
                raise IdentityError(f"nothing of {name!r} to revoke; {_hint(name, register)}")
            self._write(register.uninvite(name).revoke(name, now_s))
        return valid

    def _write(self, register: Register) -> None:
        write_register(self.folder / _REGISTER, register)


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
    write_register(folder / _REGISTER, Register())
    return keys


def read_keys(folder: Path) -> RunKeys:
    """The keys that `init_keys` left. Raises IdentityError."""

    def signed(key: str, certificate: str) -> Signed:
        paths = folder / key, folder / certificate
        return read_signed(*(read_private(path, NO_KEYS) for path in paths))

    return RunKeys(folder, signed(_AUTHORITY_KEY, _AUTHORITY), signed(_SERVER_KEY, _SERVER))


def _check_invitation(register: Register, name: str, secret: bytes, now_s: float) -> None:
    invitation = register.invitations.get(name)
    if invitation is None:
        raise IdentityError(f"a used, revoked or invented token of {name}")
    if not invitation.secret.matches(secret):
        raise IdentityError(f"a token of {name} that was not given, or was replaced by a newer one")
    if now_s > invitation.expires_s:
        raise IdentityError(f"the token of {name} has expired; invite {name} again")


def _hint(name: str, register: Register) -> str:
    known = sorted({one.name for one in register.issued} | set(register.invitations))
    return nearest(name, known) if known else "no device was invited yet"
