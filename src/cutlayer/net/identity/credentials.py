"""What proves who is who: the run's certificate authority and what it signs, a device's keys, and
the token with which a device is invited.

Knows X.509 (RFC 5280) with ECDSA on P-256; not where a run keeps its keys, nor who was invited.
The time is passed in. A server's certificate is good for a server alone and a device's for a
client alone, so that a device cannot play the server to another.
"""

import base64
import binascii
import contextlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from cutlayer.net.wire.link import device_name

# A run's certificate authority: makes itself, the server's certificate and the devices'.


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


# it has a dot, so no device can have it
SERVER_NAME = "server.cutlayer"
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
        f"{folder} has no complete identity: name another folder as identity, or, if it was one,"
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
