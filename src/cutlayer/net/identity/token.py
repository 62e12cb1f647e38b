"""What an invited device is given to type: one line with its name, a secret and whom to trust.

Knows the line's format, and the salted hash that is kept of the secret; not who was invited.
"""

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass, field

from cutlayer.errors import IdentityError
from cutlayer.net.identity.names import device_name

SECRET_BYTES = 32
FINGERPRINT_BYTES = 32
_SALT_BYTES = 16
_PREFIX = "cutlayer1"


@dataclass(frozen=True)
class Token:
    """An invitation: the device's name, its secret, and the authority's fingerprint (SHA-256)."""

    name: str
    secret: bytes = field(repr=False)
    authority: bytes

    def text(self) -> str:
        """The line that the device is given. It is the secret: print it once, log it never."""
        return ".".join((_PREFIX, self.name, _letters(self.secret), _letters(self.authority)))


def new_token(name: str, authority: bytes) -> Token:
    """A token for the device `name` with a fresh secret of 256 bits."""
    return Token(device_name(name), secrets.token_bytes(SECRET_BYTES), authority)


def read_token(text: str) -> Token:
    """The token that a line holds. Raises IdentityError, which does not quote the line."""
    parts = text.strip().split(".")
    if len(parts) != 4 or parts[0] != _PREFIX:
        raise IdentityError(
            "not a token; `cutlayer keys invite NAME` on the server prints one, to be copied whole"
        )
    name, secret, authority = device_name(parts[1]), _bytes(parts[2]), _bytes(parts[3])
    if len(secret) != SECRET_BYTES or len(authority) != FINGERPRINT_BYTES:
        raise IdentityError(f"the token of {name} is not whole; copy all of it")
    return Token(name, secret, authority)


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
        raise IdentityError("the token is not whole; copy all of it") from None
