"""A run's certificate authority: makes itself, the server's certificate and the devices'.

Knows X.509 (RFC 5280) with ECDSA on P-256; not where keys are kept, nor who was invited. The time
is passed in. A server's certificate is good for a server alone and a device's for a client alone,
so that a device cannot play the server to another.
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cutlayer.errors import IdentityError
from cutlayer.files import PRIVATE, sync_folder, write_whole

# Folders and files that only their owner may read.
#
# Knows permissions and how to write so that a crash leaves the old file or the new one; not what is
# in them.


_FOLDER_MODE = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path) -> None:
    """Make `folder` (and its parents), for its owner alone.

    Raises IdentityError if it exists and is not empty, OSError if the disk refuses.
    """
    folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise IdentityError(f"{folder} is not empty, and no key is ever overwritten; name another")
    folder.chmod(_FOLDER_MODE)


def write_private(path: Path, content: bytes) -> None:
    """A new file, readable by its owner from its first byte on, whole or not at all.

    Raises OSError if it exists or the disk refuses.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
    except BaseException:
        path.unlink()
        raise
    sync_folder(path.parent)


def replace_private(path: Path, content: bytes) -> None:
    """`write_private` in the place of the file that is there."""
    write_whole(path, lambda new: new.write_bytes(content), mode=PRIVATE)


def read_private(path: Path, if_missing: str) -> bytes:
    """The content of a file that its owner alone may read.

    Raises IdentityError if it is missing, with what to do then, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise IdentityError(f"{path}: missing; {if_missing}") from None
    if mode & _OTHERS:
        raise IdentityError(f"{path}: others may read it (mode {mode & 0o777:o}); chmod 600 it")
    return content


# The names of devices and of the server, as certificates carry them.
#
# Knows their spelling; not which devices there are.


# it has a dot, so no device can have it
SERVER_NAME = "server.cutlayer"
_DEVICE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def device_name(text: str) -> str:
    """`text`, if a device can have it as its name: a DNS label (RFC 1123) in lower case.

    Raises IdentityError.
    """
    if _DEVICE.fullmatch(text) is None:
        raise IdentityError(
            f"no name for a device: {text[:80]!r}; use 1 to 63 of a to z, 0 to 9 and inner hyphens"
        )
    return text


VALID = timedelta(days=825)
# clocks of small boards run behind
_BACKDATED = timedelta(days=1)
_CURVE = ec.SECP256R1
_HASH = hashes.SHA256()


@dataclass(frozen=True, repr=False)
class Signed:
    """A private key and the certificate of its public half."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh private key, from the system's random source."""
    return ec.generate_private_key(_CURVE())


def new_authority(now: datetime) -> Signed:
    """An authority that nobody knows yet: it signs itself, and signs no other authority."""
    key = new_key()
    name = _name("cutlayer run")
    builder = _builder(name, key.public_key(), name, now)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return Signed(key, builder.sign(key, _HASH))


def server_identity(authority: Signed, now: datetime) -> Signed:
    """A key for the server and its certificate, for `SERVER_NAME` whatever its address is."""
    key = new_key()
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    return Signed(key, _issue(authority, SERVER_NAME, key.public_key(), usage, now))


def device_certificate(
    authority: Signed, name: str, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.Certificate:
    """A device's certificate: `name` is its common name and its only alternative name."""
    return _issue(authority, name, key, ExtendedKeyUsageOID.CLIENT_AUTH, now)


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A certificate signing request (PKCS #10, DER): proof that the sender holds `key`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
    return builder.sign(key, _HASH).public_bytes(Encoding.DER)


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request. Raises IdentityError if it is not one of ours."""
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        proven = parsed.is_signature_valid
    except Exception as error:  # a parser fed by strangers; whatever it raises is their mistake
        raise IdentityError(f"not a certificate signing request ({type(error).__name__})") from None
    if not proven:
        raise IdentityError("a certificate signing request that is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVE):
        raise IdentityError("a certificate signing request for a key that is not on P-256")
    return key


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the whole certificate, 32 bytes."""
    return certificate.fingerprint(_HASH)


def check_server(certificate: x509.Certificate, authority: x509.Certificate, now: datetime) -> None:
    """Raises IdentityError unless `certificate` is a server's, in date and made by `authority`."""
    try:
        certificate.verify_directly_issued_by(authority)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        raise IdentityError(
            "the server's certificate is not of the run that issued the invitation"
        ) from None
    if list(usages) != [ExtendedKeyUsageOID.SERVER_AUTH]:
        raise IdentityError("another device of the run impersonates its server")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise IdentityError(
            f"the server's certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to"
            f" {certificate.not_valid_after_utc:%Y-%m-%d}, and this clock says {now:%Y-%m-%d}"
        )


def certificate_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Certificates as text, one after another."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as text (PKCS #8), not encrypted: its file's permissions protect it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_signed(key: bytes, certificate: bytes) -> Signed:
    """A key and its certificate from their texts. Raises IdentityError, which quotes neither."""
    try:
        private = load_pem_private_key(key, password=None)
        parsed = x509.load_pem_x509_certificate(certificate)
    except (ValueError, TypeError):
        raise IdentityError("a key or certificate that cannot be read") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise IdentityError("a private key that is not on P-256")
    if parsed.public_key() != private.public_key():
        raise IdentityError("a key and a certificate that do not match")
    return Signed(private, parsed)


def _issue(
    authority: Signed,
    name: str,
    key: ec.EllipticCurvePublicKey,
    usage: x509.ObjectIdentifier,
    now: datetime,
) -> x509.Certificate:
    builder = _builder(_name(name), key, authority.certificate.subject, now)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([usage]), False),
        (x509.SubjectAlternativeName([x509.DNSName(name)]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(authority.key, _HASH)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
