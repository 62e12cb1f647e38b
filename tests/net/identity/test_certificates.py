"""Certificates: an independent verifier accepts those that are right, and only as what they are."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import IdentityError
from cutlayer.net.identity.credentials import (
    SERVER_NAME,
    VALID,
    Signed,
    certificate_pem,
    check_server,
    common_name,
    device_certificate,
    key_pem,
    new_authority,
    new_key,
    read_signed,
    requested_key,
    server_identity,
    signing_request,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = new_authority(NOW)
OTHER = new_authority(NOW)
SERVER = server_identity(AUTHORITY, NOW).certificate
KEY = new_key()
REQUEST = signing_request(KEY, "pi")
DEVICE = device_certificate(AUTHORITY, "pi", new_key().public_key(), NOW)


def policy(authority: Signed, at: datetime = NOW) -> PolicyBuilder:
    return PolicyBuilder().store(Store([authority.certificate])).time(at)


def test_a_verifier_accepts_the_device_as_a_client_alone() -> None:
    verified = policy(AUTHORITY).build_client_verifier().verify(DEVICE, [])
    assert verified.subjects == [x509.DNSName("pi")]
    assert common_name(DEVICE) == "pi"
    with pytest.raises(VerificationError):
        policy(AUTHORITY).build_server_verifier(x509.DNSName("pi")).verify(DEVICE, [])


def test_a_verifier_accepts_the_server_as_a_server_alone() -> None:
    policy(AUTHORITY).build_server_verifier(x509.DNSName(SERVER_NAME)).verify(SERVER, [])
    check_server(SERVER, AUTHORITY.certificate, NOW)
    with pytest.raises(VerificationError):
        policy(AUTHORITY).build_client_verifier().verify(SERVER, [])


@pytest.mark.parametrize(
    ("authority", "at"),
    [(OTHER, NOW), (AUTHORITY, NOW + VALID + timedelta(1)), (AUTHORITY, NOW - timedelta(2))],
)
def test_a_verifier_refuses_another_run_and_another_time(authority: Signed, at: datetime) -> None:
    with pytest.raises(VerificationError):
        policy(authority, at).build_client_verifier().verify(DEVICE, [])


def test_a_device_cannot_play_the_server() -> None:
    with pytest.raises(IdentityError, match="impersonates its server"):
        check_server(DEVICE, AUTHORITY.certificate, NOW)


def test_another_runs_server_is_refused() -> None:
    with pytest.raises(IdentityError, match="not of the run that issued the invitation"):
        check_server(server_identity(OTHER, NOW).certificate, AUTHORITY.certificate, NOW)


def test_a_device_cannot_sign_a_server_of_its_own() -> None:
    key = new_key()
    device = Signed(key, device_certificate(AUTHORITY, "pi", key.public_key(), NOW))
    false = server_identity(device, NOW).certificate
    with pytest.raises(IdentityError, match="not of the run that issued the invitation"):
        check_server(false, AUTHORITY.certificate, NOW)
    verifier = policy(AUTHORITY).build_server_verifier(x509.DNSName(SERVER_NAME))
    with pytest.raises(VerificationError):
        verifier.verify(false, [device.certificate])


def test_a_server_out_of_date_is_refused() -> None:
    with pytest.raises(IdentityError, match="this clock says 2040"):
        check_server(SERVER, AUTHORITY.certificate, NOW.replace(year=2040))


def test_a_request_gives_its_key() -> None:
    key = new_key()
    assert requested_key(signing_request(key, "pi")) == key.public_key()


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    request = bytearray(signing_request(new_key(), "pi"))
    request[-1] ^= 1  # the end of the signature
    with pytest.raises(IdentityError, match="signing request"):
        requested_key(bytes(request))


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
)
def test_a_request_for_another_kind_of_key_is_refused(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    digest = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    request = builder.sign(key, digest).public_bytes(Encoding.DER)
    with pytest.raises(IdentityError, match="not on P-256"):
        requested_key(request)


@given(st.binary(max_size=400))
def test_noise_is_no_request(noise: bytes) -> None:
    with pytest.raises(IdentityError):
        requested_key(noise)


@given(st.integers(0, len(REQUEST) - 1), st.integers(0, 7))
def test_a_request_with_one_bit_wrong_never_gives_another_key(place: int, bit: int) -> None:
    """A bit that the signature does not cover (how many bits of its own are unused) may pass."""
    request = bytearray(REQUEST)
    request[place] ^= 1 << bit
    with contextlib.suppress(IdentityError):
        assert requested_key(bytes(request)) == KEY.public_key()


def test_a_key_and_its_certificate_come_back_from_their_texts() -> None:
    again = read_signed(key_pem(AUTHORITY.key), certificate_pem([AUTHORITY.certificate]))
    assert again.certificate == AUTHORITY.certificate
    with pytest.raises(IdentityError, match="do not match"):
        read_signed(key_pem(OTHER.key), certificate_pem([AUTHORITY.certificate]))
    with pytest.raises(IdentityError, match="cannot be read"):
        read_signed(b"no key", certificate_pem([AUTHORITY.certificate]))
