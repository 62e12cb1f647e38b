"""A device gets its certificate for a token: both ends of that exchange.

Knows its messages; who may enrol is `identity.run_keys`. Each is a frame, as on a link
(`wire.tls_link`), over TLS in which the device shows no certificate:

    server   the authority's certificate [DER]
    device   its name, the token's secret, its certificate signing request [DER], or an empty one
    server   the device's certificate [DER]; for an empty request the run's outline, and the token
             is not used up; or nothing: strangers get no reasons

The device sends nothing until the authority has the fingerprint in the token, and the certificate
of this TLS connection is one that this authority made for a server.
"""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cutlayer.errors import IdentityError
from cutlayer.net.identity.credentials import (
    DeviceKeys,
    InvitationToken,
    Signed,
    check_server,
    device_keys,
    fingerprint,
    make_private_folder,
    new_key,
    signing_request,
    write_device_keys,
)
from cutlayer.net.identity.run_keys import RunKeys
from cutlayer.net.wire.frames import TERMS_BYTES
from cutlayer.net.wire.link import Link
from cutlayer.net.wire.messages import Outline, read_outline
from cutlayer.net.wire.tls_link import ENROL, OTHER_VERSION, invited_context

Answer = TypeVar("Answer")

_LENGTH = struct.Struct("<I")
# a certificate on P-256 has some 450 bytes, a request 300
LARGEST_BYTES = 4096
TIMEOUT_S = 10.0


class Enrolment:
    """The server's end. `outline`: what the invited are told of the run."""

    def __init__(
        self, keys: RunKeys, outline: Outline, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._outline = outline
        self._wall_clock = wall_clock

    async def exchange(self, link: Link) -> bytes:
        """What to answer whoever is at the other end. Raises IdentityError with the reason of a
        refusal, which is for the log; LinkClosed."""
        await link.send(self._keys.authority.certificate.public_bytes(Encoding.DER))
        name, secret, request = [bytes(await link.receive()) for _ in range(3)]
        now_s, text = self._wall_clock(), name.decode("ascii", "replace")
        if not request:
            self._keys.check_invitation(text, secret, now_s)
            return self._outline.to_bytes()
        return self._keys.enrol(text, secret, request, now_s).public_bytes(Encoding.DER)


def ask_outline(address: tuple[str, int], token: InvitationToken) -> Outline:
    """What the server at `address` trains, for the holder of `token`, which is not used up.

    Blocks and raises as `enrol`, but for the folder and the disk.
    """
    return read_outline(_reached(address, lambda: _exchanged(address, token, b"")[0]))


def enrol(address: tuple[str, int], token: InvitationToken, folder: Path) -> DeviceKeys:
    """Fetch the identity that `token` promises from the server at `address`, into a new `folder`.

    Blocks, some ten seconds for each silence of the server's. Raises IdentityError if `folder`
    holds anything, or the server is not the one that invited, speaks no TLS or does not accept the
    token; ConnectionError or TimeoutError if nobody answers; OSError if the disk refuses.
    """
    make_private_folder(folder)  # before the token is used up
    try:
        keys = _reached(address, lambda: _fetch(address, token))
        write_device_keys(folder, keys)
    except BaseException:
        folder.rmdir()
        raise
    return keys


def _reached(address: tuple[str, int], do: Callable[[], Answer]) -> Answer:
    """What `do` gives; its errors tell a server that is away from one that is another."""
    try:
        return do()
    except (ConnectionError, TimeoutError):
        raise
    except ssl.SSLError as error:
        if isinstance(error, ssl.SSLEOFError):
            raise ConnectionError("the server closed the connection") from error
        host, port = address
        raise IdentityError(
            f"{host}:{port}: TLS handshake failed: is this where `cutlayer serve` listens?"
            f" ({error.reason})"
        ) from error
    except OSError as error:  # no such name yet, or no way there
        raise ConnectionError(error.errno, error.strerror) from error


def _fetch(address: tuple[str, int], token: InvitationToken) -> DeviceKeys:
    key = new_key()
    answer, authority = _exchanged(address, token, signing_request(key, token.name))
    certificate = _certificate(answer)
    if certificate is None or certificate.public_key() != key.public_key():
        raise _not_accepted(token)
    return device_keys(Signed(key, certificate), authority)


def _exchanged(
    address: tuple[str, int], token: InvitationToken, request: bytes
) -> tuple[bytes, x509.Certificate]:
    """The server's answer, never an empty one, and its authority."""
    with (
        socket.create_connection(address, timeout=TIMEOUT_S) as plain,
        invited_context().wrap_socket(plain) as secure,
    ):
        if secure.selected_alpn_protocol() != ENROL:
            raise IdentityError(f"the server {OTHER_VERSION}")
        authority = _trusted(secure, token)
        secure.sendall(b"".join(map(_message, (token.name.encode(), token.secret, request))))
        answer = _receive(secure)
    if not answer:
        raise _not_accepted(token)
    return answer, authority


def _not_accepted(token: InvitationToken) -> IdentityError:
    return IdentityError(
        f"the server did not accept the token of {token.name}: used, expired or revoked?"
        f" `cutlayer keys invite {token.name}` there makes another"
    )


def _trusted(secure: ssl.SSLSocket, token: InvitationToken) -> x509.Certificate:
    """The authority, if it is the token's and this connection ends at its server."""
    authority = _certificate(_receive(secure))
    if authority is None or fingerprint(authority) != token.authority:
        raise IdentityError(
            "the server is not of the run that issued the invitation; is the address right?"
        )
    shown = _certificate(secure.getpeercert(binary_form=True) or b"")
    if shown is None:
        raise IdentityError("the server presents no certificate")
    check_server(shown, authority, datetime.now(UTC))
    return authority


def _certificate(content: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(content)
    except ValueError:
        return None


def _receive(secure: ssl.SSLSocket) -> bytes:
    """A message; empty if the server closed the connection, or it is longer than any of ours."""
    try:
        (length,) = _LENGTH.unpack(_receive_exactly(secure, _LENGTH.size))
        if length > TERMS_BYTES:
            return b""
        return _receive_exactly(secure, length)
    except (EOFError, ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return b""


def _receive_exactly(secure: ssl.SSLSocket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = secure.recv(count - len(content))
        if not part:
            raise EOFError
        content += part
    return content


def _message(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body
