"""Enrolling over TLS on loopback: what a device gets, each refusal, and what a stranger sees."""

import asyncio
import contextlib
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cutlayer.errors import IdentityError
from cutlayer.net.identity.credentials import InvitationToken, read_device_keys, write_device_keys
from cutlayer.net.identity.enrolment import ask_outline, enrol
from cutlayer.net.identity.run_keys import RunKeys
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.net.wire.messages import Outline
from cutlayer.net.wire.tls_link import ENROL, LINK, invited_context
from net.ends import LIMITS, Served, enrolled, run_keys, serving


@pytest.fixture
def keys(tmp_path: Path) -> RunKeys:
    return run_keys(tmp_path / "keys")


async def attempt(served: Served, token: InvitationToken, folder: Path) -> str:
    """Why the device was not enrolled, or nothing."""
    try:
        await asyncio.to_thread(enrol, (LOOPBACK, served.port), token, folder)
    except IdentityError as error:
        assert not folder.exists()
        return str(error)
    return ""


def test_an_invited_device_gets_an_identity_and_a_link(keys: RunKeys, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            token = keys.invite("pi", 60.0, time.time())
            assert await attempt(served, token, tmp_path / "pi") == ""
            link = await served.connect(read_device_keys(tmp_path / "pi"))
            await link.send(b"hello")
            assert await link.receive() == b"hello"
            await link.close()
            assert served.said[0] == "pi connected from 127.0.0.1"

    asyncio.run(run())
    assert stat.S_IMODE((tmp_path / "pi").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "pi").iterdir()}
    assert modes == {0o600}
    assert read_device_keys(tmp_path / "pi").name == "pi"


def test_the_invited_may_ask_what_is_trained_and_keep_their_token(
    keys: RunKeys, tmp_path: Path
) -> None:
    async def run() -> None:
        # more names than a message of 64 KiB holds
        outline = Outline("image-classification", tuple(f"class {n}" for n in range(9_000)))
        async with serving(keys, outline=outline) as served:
            address = (LOOPBACK, served.port)
            token = keys.invite("pi", 60.0, time.time())
            for _ in range(2):
                assert await asyncio.to_thread(ask_outline, address, token) == outline
            assert await attempt(served, token, tmp_path / "pi") == ""
            late = keys.invite("late", -1.0, time.time())
            for stranger in (token, late, InvitationToken("guess", bytes(32), token.authority)):
                with pytest.raises(IdentityError, match="did not accept the token"):
                    await asyncio.to_thread(ask_outline, address, stranger)

    asyncio.run(run())


def test_each_refusal_has_its_reason_in_the_log_alone(keys: RunKeys, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            used = keys.invite("pi", 60.0, time.time())
            assert await attempt(served, used, tmp_path / "pi") == ""
            late = keys.invite("late", -1.0, time.time())
            guessed = InvitationToken("guess", bytes(32), used.authority)
            wrong = InvitationToken(
                "wrong", bytes(32), keys.invite("wrong", 60.0, time.time()).authority
            )
            for token, reason in (
                (used, "a used, revoked or unknown token of pi"),
                (late, "the token of late has expired"),
                (guessed, "a used, revoked or unknown token of guess"),
                (wrong, "a token of wrong that was not given"),
            ):
                told = await attempt(served, token, tmp_path / "other")
                assert told.startswith("the server did not accept the token of")
                assert "refused 127.0.0.1: " in await served.hears(reason)
            log = "\n".join(served.said)
            for token in (used, late, guessed, wrong):
                assert token.secret.hex() not in log
                assert token.text().split(".")[2] not in log

    asyncio.run(run())


def test_a_server_of_another_run_learns_nothing(keys: RunKeys, tmp_path: Path) -> None:
    async def run() -> None:
        other = run_keys(tmp_path / "other")
        token = keys.invite("pi", 60.0, time.time())
        async with serving(other) as served:
            told = await attempt(served, token, tmp_path / "pi")
            assert (
                told
                == "the server is not of the run that issued the invitation; is the address right?"
            )
        async with serving(keys) as served:
            assert await attempt(served, token, tmp_path / "pi") == ""

    asyncio.run(run())


@contextlib.contextmanager
def impostor(keys: RunKeys, folder: Path) -> Iterator[tuple[int, list[bytes]]]:
    """A device of the run plays its server: it has the true authority's certificate to show, and
    an own certificate that this authority made. What it is told is in the list."""
    thief = enrolled(keys, "thief")
    folder.mkdir()
    (folder / "key").write_bytes(thief.key)
    (folder / "crt").write_bytes(thief.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    context.set_alpn_protocols([ENROL])
    authority = keys.authority.certificate.public_bytes(Encoding.DER)
    told: list[bytes] = []
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.settimeout(20.0)

        def once() -> None:
            plain, _ = listening.accept()
            with plain, context.wrap_socket(plain, server_side=True) as secure:
                secure.sendall(len(authority).to_bytes(4, "little") + authority)
                told.append(secure.recv(1000))

        thread = threading.Thread(target=once)
        thread.start()
        yield listening.getsockname()[1], told
        thread.join()


def test_a_device_that_plays_the_server_learns_nothing(keys: RunKeys, tmp_path: Path) -> None:
    token = keys.invite("pi", 60.0, time.time())
    with (
        impostor(keys, tmp_path / "thief") as (port, told),
        pytest.raises(IdentityError, match="impersonates its server"),
    ):
        enrol((LOOPBACK, port), token, tmp_path / "pi")
    assert told == [b""]


def test_a_folder_that_is_in_use_keeps_the_token(keys: RunKeys, tmp_path: Path) -> None:
    (tmp_path / "pi").mkdir()
    (tmp_path / "pi" / "device.key").write_text("precious")

    async def run() -> None:
        async with serving(keys) as served:
            token = keys.invite("pi", 60.0, time.time())
            with pytest.raises(IdentityError, match="is not empty"):
                enrol((LOOPBACK, served.port), token, tmp_path / "pi")
            assert await attempt(served, token, tmp_path / "elsewhere") == ""

    asyncio.run(run())


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as gone:
        port = gone.getsockname()[1]
    token = InvitationToken("pi", bytes(32), bytes(32))
    with pytest.raises(ConnectionRefusedError):
        enrol((LOOPBACK, port), token, tmp_path / "pi")
    assert not (tmp_path / "pi").exists()


def test_keys_of_a_device_that_others_may_read_are_not_used(keys: RunKeys, tmp_path: Path) -> None:
    (tmp_path / "pi").mkdir(mode=0o700)
    device = enrolled(keys, "pi")
    write_device_keys(tmp_path / "pi", device)
    assert read_device_keys(tmp_path / "pi") == device
    assert "PRIVATE" in device.key.decode() and "PRIVATE" not in repr(device)
    (tmp_path / "pi" / "device.key").chmod(0o604)
    with pytest.raises(IdentityError, match="others may read it"):
        read_device_keys(tmp_path / "pi")


@pytest.mark.parametrize(
    "host",
    [
        "255.255.255.255",  # a broadcast: there is no way there for TCP
        "no-such-host.invalid",  # RFC 2606: a name that nobody has
    ],
)
def test_no_way_there_is_nobody_there(host: str, tmp_path: Path) -> None:
    """A network that comes up later than the device, or its names, is waited for like a server."""
    with pytest.raises(ConnectionError):
        enrol((host, 7700), InvitationToken("pi", bytes(32), bytes(32)), tmp_path / "pi")
    assert not (tmp_path / "pi").exists()


def test_a_server_of_something_else(tmp_path: Path) -> None:
    """It is not waited for: it will not become ours."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            plain, _ = listening.accept()
            with plain, contextlib.suppress(ConnectionError):
                plain.recv(1)
                plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                while plain.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(IdentityError, match=f"127.0.0.1:{port}: TLS handshake failed"):
            enrol((LOOPBACK, port), InvitationToken("pi", bytes(32), bytes(32)), tmp_path / "pi")
        thread.join()
    assert not (tmp_path / "pi").exists()


async def shown(port: int, then: bytes) -> bytes:
    """What a stranger sees who starts enrolling and then says `then`."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=invited_context())
    writer.write(then)
    seen = b""
    with contextlib.suppress(ConnectionError):
        seen = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return seen


@pytest.mark.parametrize(
    "then",
    [
        b"\x01\x10\x00\x00" + bytes(4097),  # beyond any message
        b"\x02\x00\x00\x00pi\x20\x00\x00\x00" + bytes(32) + b"\x01\x00\x00\x00x",
        b"\x02\x00\x00\x00\xff\xfe" + bytes(8),  # a name that is no text
        bytes(12),
        b"\xfe\xff\xff\xff",  # it is done
    ],
)
def test_a_stranger_sees_the_authority_and_nothing_else(then: bytes, keys: RunKeys) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            authority = keys.authority.certificate.public_bytes(Encoding.DER)
            seen = await shown(served.port, then)
            assert seen == len(authority).to_bytes(4, "little") + authority
            assert "refused 127.0.0.1" in await served.hears("refused")

    asyncio.run(run())


def test_the_limits_let_200_devices_of_one_address_enrol_at_once() -> None:
    assert LIMITS.unproven_by_address >= 200
    assert LIMITS.arrivals_burst >= 2 * 200  # to enrol, and to connect
    assert LIMITS.connections <= 1024 - 184  # file descriptors


def test_an_old_server_is_told_apart(keys: RunKeys, tmp_path: Path) -> None:
    """It does not know this version's enrolment, and the token is not sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*keys.server_files)
    context.set_alpn_protocols([LINK])
    with socket.create_server((LOOPBACK, 0)) as listening:

        def once() -> None:
            plain, _ = listening.accept()
            with plain, context.wrap_socket(plain, server_side=True) as secure:
                assert secure.recv(1) == b""

        thread = threading.Thread(target=once)
        thread.start()
        token = keys.invite("pi", 60.0, time.time())
        with pytest.raises(IdentityError, match="run the same version on both ends"):
            enrol((LOOPBACK, listening.getsockname()[1]), token, tmp_path / "pi")
        thread.join()
