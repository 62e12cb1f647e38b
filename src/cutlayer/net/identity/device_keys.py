"""A device's identity: its keys, and the token with which it is invited."""

import base64
import binascii
import contextlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from cutlayer.errors import IdentityError
from cutlayer.net.identity.certificates import (
    Signed,
    certificate_pem,
    device_name,
    key_pem,
    read_private,
    read_signed,
    write_private,
)

# A device's identity: its key, its certificate, and the authority that it trusts.
#
# Knows the files on the device. The key is made there and never leaves it.


_KEY = "device.key"
_CERTIFICATE = "device.crt"
_AUTHORITY = "authority.crt"


@dataclass(frozen=True)
class DeviceKeys:
    """What a device shows and whom it believes, as texts (PEM)."""

    name: str
    key: bytes = field(repr=False)
    certificate: bytes
    authority: bytes


def device_keys(signed: Signed, authority: x509.Certificate) -> DeviceKeys:
    """The identity of the device that `signed` names."""
    return DeviceKeys(
        common_name(signed.certificate),
        key_pem(signed.key),
        certificate_pem([signed.certificate]),
        certificate_pem([authority]),
    )


def write_device_keys(folder: Path, keys: DeviceKeys) -> None:
    """Into an empty folder that only its owner may read, which stays empty if the disk refuses.

    Raises OSError then.
    """
    contents = {
        ".gitignore": b"*\n",  # keys are for no repository
        _KEY: keys.key,
        _CERTIFICATE: keys.certificate,
        _AUTHORITY: keys.authority,
    }
    with contextlib.ExitStack() as undo:
        for name, content in contents.items():
            path = folder / name
            write_private(path, content)
            undo.callback(path.unlink)
        undo.pop_all()


def read_device_keys(folder: Path) -> DeviceKeys:
    """What `write_device_keys` left. Raises IdentityError for a folder that holds anything else, or
    a part of it: a device that lost its power may have been writing."""
    remedy = (
        f"{folder} has no complete identity: name another folder as --identity, or, if it was one,"
        " delete it and ask for another invitation"
    )
    key, certificate, authority = (
        read_private(folder / name, remedy) for name in (_KEY, _CERTIFICATE, _AUTHORITY)
    )
    try:
        return device_keys(read_signed(key, certificate), x509.load_pem_x509_certificate(authority))
    except (IdentityError, ValueError) as error:
        raise IdentityError(f"{remedy} ({_damage(error)})") from None


def _damage(error: Exception) -> str:
    """What is wrong with the files, without quoting them."""
    return str(error) if isinstance(error, IdentityError) else f"{_AUTHORITY} cannot be read"


def common_name(certificate: x509.Certificate) -> str:
    """The name that a certificate is for."""
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


# What an invited device is given to type: one line with its name, a secret and whom to trust.
#
# Knows the line's format, and the salted hash that is kept of the secret; not who was invited.


SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
_SALT_BYTES = 16
_PREFIX = "cutlayer1"


@dataclass(frozen=True)
class InvitationToken:
    """An invitation: the device's name, its secret, and the authority's fingerprint (SHA-256)."""

    name: str
    secret: bytes = field(repr=False)
    authority: bytes

    def text(self) -> str:
        """The line that the device is given. It is the secret: print it once, log it never."""
        return ".".join((_PREFIX, self.name, _letters(self.secret), _letters(self.authority)))


def new_token(name: str, authority: bytes) -> InvitationToken:
    """A token for the device `name` with a fresh secret of 256 bits."""
    return InvitationToken(device_name(name), secrets.token_bytes(SECRET_BYTES), authority)


def read_token(text: str) -> InvitationToken:
    """The token that a line holds. Raises IdentityError, which does not quote the line."""
    parts = text.strip().split(".")
    if len(parts) != 4 or parts[0] != _PREFIX:
        raise IdentityError(
            "not a token; `cutlayer keys invite NAME` on the server prints one; copy all of it"
        )
    name, secret, authority = device_name(parts[1]), _bytes(parts[2]), _bytes(parts[3])
    if len(secret) != SECRET_BYTES or len(authority) != FINGERPRINT_BYTES:
        raise IdentityError(f"the token of {name} is incomplete; copy all of it")
    return InvitationToken(name, secret, authority)


@dataclass(frozen=True)
class SecretHash:
    """HMAC-SHA-256 of a secret under a salt. The secret has 256 bits: no slow hash is needed."""

    salt: bytes
    digest: bytes

    def matches(self, secret: bytes) -> bool:
        """Whether `secret` is the one, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(_digest(self.salt, secret), self.digest)


def hash_secret(secret: bytes) -> SecretHash:
    """What is kept of `secret`, under a fresh salt."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return SecretHash(salt, _digest(salt, secret))


def _digest(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, "sha256")


def _letters(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(letters: str) -> bytes:
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise IdentityError("the token is incomplete; copy all of it") from None
