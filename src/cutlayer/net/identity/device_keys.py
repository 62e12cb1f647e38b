"""A device's identity: its key, its certificate, and the authority that it trusts.

Knows the files on the device. The key is made there and never leaves it.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from cutlayer.errors import IdentityError
from cutlayer.net.identity.certificates import Signed, certificate_pem, key_pem, read_signed
from cutlayer.net.identity.private_files import read_private, write_private

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
        f"{folder} holds no whole identity: name another folder as --identity, or, if it was one,"
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
