"""Who was invited and whose certificates were issued or revoked, as one file.

Knows the file, its lock and its format; decides nothing. Another process may change it at any
moment (`cutlayer keys revoke` while the server runs), so every change happens under a lock and
replaces the file by rename. Secrets are in it as salted hashes only.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cutlayer import files
from cutlayer.errors import IdentityError
from cutlayer.net.identity.private_files import read_private, replace_private
from cutlayer.net.identity.token import SecretHash

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
class Register:
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

    def invite(self, name: str, invitation: Invitation) -> "Register":
        """With `name` invited; an older invitation of it is void."""
        return replace(self, invitations={**self.invitations, name: invitation})

    def uninvite(self, name: str) -> "Register":
        """Without an invitation of `name`."""
        rest = {other: one for other, one in self.invitations.items() if other != name}
        return replace(self, invitations=rest)

    def issue(self, name: str, serial: int, now_s: float) -> "Register":
        """With one more certificate."""
        return replace(self, issued=(*self.issued, Issued(name, serial, now_s)))

    def revoke(self, name: str, now_s: float) -> "Register":
        """With all certificates of `name` revoked; when one was already, the time stays."""
        return replace(
            self,
            issued=tuple(
                replace(one, revoked_s=now_s) if one.name == name and one.revoked_s is None else one
                for one in self.issued
            ),
        )


def read_register(path: Path) -> Register:
    """The register as it is now. Raises IdentityError if it is missing or not a register."""
    try:
        return _register(json.loads(read_private(path, NO_KEYS)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IdentityError(f"{path}: not a register of devices; restore it from a copy") from None


def write_register(path: Path, register: Register) -> None:
    """Put `register` in the place of the file that is there. Raises OSError."""
    replace_private(path, json.dumps(_fields(register), indent=1).encode() + b"\n")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else changes the register at `path` meanwhile, in whatever process."""
    lock = path.with_name(f".{path.name}.lock")
    with files.locked(lock):
        yield


def _register(fields: Any) -> Register:
    if fields["format"] != _FORMAT:
        raise ValueError(fields["format"])
    return Register(
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


def _fields(register: Register) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "invitations": {
            name: {
                "salt": one.secret.salt.hex(),
                "digest": one.secret.digest.hex(),
                "expires_s": one.expires_s,
            }
            for name, one in register.invitations.items()
        },
        "issued": [
            {
                "name": one.name,
                "serial": f"{one.serial:x}",
                "issued_s": one.issued_s,
                "revoked_s": one.revoked_s,
            }
            for one in register.issued
        ],
    }
