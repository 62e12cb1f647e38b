"""A device's identity: its key, its certificate, and the authority that it trusts.

Knows the files on the device. The key is made there and never leaves it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

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
    """Into an empty folder that only its owner may read. Raises OSError if the disk refuses."""
    for name, content in (
        (".gitignore", b"*\n"),  # keys are for no repository
        (_KEY, keys.key),
        (_CERTIFICATE, keys.certificate),
        (_AUTHORITY, keys.authority),
    ):
        write_private(folder / name, content)


def read_device_keys(folder: Path) -> DeviceKeys:
    """What `write_device_keys` left. Raises IdentityError."""
    signed = read_signed(read_private(folder / _KEY), read_private(folder / _CERTIFICATE))
    (authority,) = x509.load_pem_x509_certificates(read_private(folder / _AUTHORITY))
    return device_keys(signed, authority)


def common_name(certificate: x509.Certificate) -> str:
    """The name that a certificate is for."""
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)
