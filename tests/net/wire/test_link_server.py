"""Who gets no link: each refusal, its reason in the log, and what the stranger is told."""

import asyncio
import contextlib
import gc
import resource
import socket
import ssl
import warnings
from pathlib import Path

import pytest

from cutlayer.net.identity.credentials import SERVER_NAME, DeviceKeys
from cutlayer.net.identity.run_keys import RunKeys
from cutlayer.net.wire import tls_link
from cutlayer.net.wire.link import ConnectionLimits, Link, LinkClosed
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.net.wire.tls_link import (
    LINK,
    OTHER_VERSION,
    TlsLink,
    Word,
    connect,
    device_context,
    invited_context,
    server_context,
)
from cutlayer.units import MIB
from net.ends import LIMITS, PATIENCE_S, both_ends, ending, enrolled, run_keys, serving

NOW_S = 1.9e9
GREETED_AND_DONE = (Word.ACCEPTED, Word.END)


@pytest.fixture
def keys(tmp_path: Path) -> RunKeys:
    return run_keys(tmp_path / "keys")


@pytest.fixture
def device(keys: RunKeys) -> DeviceKeys:
    return enrolled(keys, "pi")


async def stranger(port: int, keys: DeviceKeys | None, speaks: str = LINK) -> TlsLink:
    """A connection with a certificate to show, or none, that says `speaks` in its handshake."""
    context = invited_context()
    if keys is not None:
        context = device_context(keys)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([speaks])
    link = TlsLink(LIMITS)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: link, LOOPBACK, port, ssl=context)
    link.begin("server", MIB)
    return link


def test_without_a_certificate(keys: RunKeys) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            await ending(await stranger(served.port, None))
            assert await served.hears("refused") == "refused 127.0.0.1: presents no certificate"

    asyncio.run(run())


def test_with_another_runs_certificate(keys: RunKeys, tmp_path: Path) -> None:
    async def run() -> None:
        other = enrolled(run_keys(tmp_path / "other"), "pi")
        async with serving(keys) as served:
            with contextlib.suppress(ConnectionError):
                await ending(await stranger(served.port, other))
            line = await served.hears("refused")
            assert line.startswith("refused 127.0.0.1: presents a certificate that does not count")
            with pytest.raises(LinkClosed, match="not that of this run's server"):
                await served.connect(other)  # nor does it believe this server

    asyncio.run(run())


def test_with_a_certificate_that_was_not_issued_here(keys: RunKeys, device: DeviceKeys) -> None:
    """Made by the true authority, by a copy of its key: it was not issued here."""

    async def run() -> None:
        (keys.folder / "devices.json").write_text('{"format": 1, "invitations": {}, "issued": []}')
        async with serving(keys) as served:
            with pytest.raises(LinkClosed, match="does not accept this device's certificate"):
                await served.connect(device)
            assert "a certificate of pi that is revoked" in await served.hears("refused")

    asyncio.run(run())


def test_with_a_revoked_certificate(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        keys.revoke("pi", NOW_S)
        async with serving(keys) as served:
            with pytest.raises(LinkClosed, match="was it revoked"):
                await served.connect(device)
            line = "refused 127.0.0.1: a certificate of pi that is revoked"
            assert await served.hears("refused") == line

    asyncio.run(run())


def test_revoking_ends_the_link_that_is_there(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        limits = ConnectionLimits(revocation_s=0.05)
        async with both_ends(keys, limits) as (served, other_end):
            other = await served.connect(enrolled(keys, "other"))
            link = await served.connect(device)
            ends = {}
            for _ in range(2):
                there = await other_end()
                ends[there.peer] = there
            keys.revoke("pi", NOW_S)
            assert "cut" in await ending(link)
            assert await ending(ends["pi"]) == "the certificate of pi was revoked"
            with pytest.raises(LinkClosed):
                await served.connect(device)
            await other.send(b"still there")
            assert await ends["other"].receive() == b"still there"
            await link.close()
            await other.close()

    asyncio.run(run())


def test_certificates_that_cannot_be_read_lets_nobody_in(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        async with serving(keys, limits=ConnectionLimits(revocation_s=0.05)) as served:
            link = await served.connect(device)
            (keys.folder / "devices.json").write_text("damaged")
            await served.hears("the device registry cannot be read")
            await link.send(b"still there")
            assert await link.receive() == b"still there"
            with pytest.raises(LinkClosed):
                await served.connect(enrolled_before)
            assert "devices cannot be checked" in await served.hears("refused")
            await link.close()

    enrolled_before = enrolled(keys, "other")
    asyncio.run(run())


def test_a_frame_beyond_the_limit_ends_the_link(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        limits = ConnectionLimits(frame_bytes=MIB)
        async with both_ends(keys, limits) as (served, other_end):
            link = await served.connect(device)
            there = await other_end()
            with contextlib.suppress(LinkClosed):
                await link.send(bytes(8 * MIB))
            reason = "a frame of 8.00 MiB where 1.00 MiB are the limit"
            assert await ending(there) == reason
            await ending(link)
            await link.close()
        assert f"pi left: {reason}" in served.said

    asyncio.run(run())


def test_words_that_are_none_end_the_link(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        async with both_ends(keys) as (served, other_end):
            link = await stranger(served.port, device)
            there = await other_end()
            await link.send(b"a frame")
            assert await there.receive() == b"a frame"
            for word in (Word.ALIVE, Word.ALIVE, 2**32 - 16):
                link._transport.write(word.to_bytes(4, "little"))
            assert await ending(there) == "a word 0xfffffff0 that means nothing here"
            await ending(link)

    asyncio.run(run())


@pytest.mark.parametrize("speaks", ["cutlayer/1", "h2"])
def test_another_version_is_told_so(speaks: str, keys: RunKeys, device: DeviceKeys) -> None:
    """The handshake has no name in common: both ends see it, and say what to do."""

    async def run() -> None:
        async with serving(keys) as served:
            link = await stranger(served.port, device, speaks)
            assert link.protocol is None
            await ending(link)
            line = await served.hears("refused")
            assert line == f"refused 127.0.0.1: {OTHER_VERSION}"

    asyncio.run(run())


def test_a_server_of_another_version_is_not_talked_to(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        context = server_context(keys)
        context.set_alpn_protocols(["cutlayer/3"])
        server = await asyncio.start_server(lambda *_: None, LOOPBACK, 0, ssl=context)
        async with server:
            address = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(LinkClosed, match=f"the server {OTHER_VERSION}"):
                await connect(address, device, LIMITS)

    asyncio.run(run())


def test_a_device_may_not_serve(keys: RunKeys, device: DeviceKeys, tmp_path: Path) -> None:
    """It has a certificate of the run, which is good for its own end alone."""

    async def run() -> None:
        both = tmp_path / "both"
        both.write_bytes(device.key + device.certificate)
        context = server_context(keys)
        context.load_cert_chain(both)
        server = await asyncio.start_server(lambda *_: None, LOOPBACK, 0, ssl=context)
        async with server:
            address = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(LinkClosed, match="not that of this run's server"):
                await connect(address, enrolled(keys, "other"), LIMITS)

    asyncio.run(run())


async def silent(port: int, count: int) -> list[asyncio.StreamWriter]:
    """Connections that say nothing."""
    pairs = [await asyncio.open_connection(LOOPBACK, port) for _ in range(count)]
    return [writer for _, writer in pairs]


async def leave(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def test_a_flood_of_connections_is_refused_and_a_link_lives_on(
    keys: RunKeys, device: DeviceKeys
) -> None:
    limits = ConnectionLimits(
        unproven_by_address=5, arrivals_burst=40, arrivals_per_s=0.01, proof_s=600.0
    )

    async def run() -> None:
        async with serving(keys, limits=limits) as served:
            link = await served.connect(device)
            flood = await silent(served.port, 10)
            await served.hears("5 of its connections are unauthenticated")
            flood += await silent(served.port, 100)
            await served.hears("more than 40 connections in a row from one address (")
            with pytest.raises(LinkClosed):
                await served.connect(device)
            # some 35 and some 70 are refused: told are the first, second, fourth and so on
            assert len([line for line in served.said if "refused" in line]) <= 6 + 7
            await link.send(b"still there")
            assert await link.receive() == b"still there"
            await leave(flood)
            await link.close()

    asyncio.run(run())


def test_a_device_that_comes_and_goes_without_end_is_refused(
    keys: RunKeys, device: DeviceKeys
) -> None:
    """Link after link, each with a certificate that counts; others are not held up."""
    limits = ConnectionLimits(sessions_burst=3, sessions_per_s=0.001)
    began: list[str] = []

    async def session(link: Link) -> None:
        began.append(link.peer)
        await link.receive()

    async def run() -> None:
        async with serving(keys, session, limits) as served:
            for _ in range(3):
                link = await served.connect(device)
                await link.send(b"a frame")
                await ending(link)
            with pytest.raises(LinkClosed, match="too many links of this device in a row"):
                await served.connect(device)
            assert began == ["pi"] * 3
            line = "refused 127.0.0.1: more than 3 links of pi in a row"
            assert await served.hears("in a row") == line
            other = await served.connect(enrolled(keys, "other"))
            await other.send(b"a frame")
            await ending(other)

    asyncio.run(run())


def test_strangers_that_hold_every_place_give_way_to_a_device(
    keys: RunKeys, device: DeviceKeys
) -> None:
    """From another address, 127.0.0.2."""
    limits = ConnectionLimits(connections=4, unproven=4, unproven_by_address=4, proof_s=600.0)

    async def run() -> None:
        async with serving(keys, limits=limits) as served:
            strangers = [
                await asyncio.open_connection(LOOPBACK, served.port, local_addr=("127.0.0.2", 0))
                for _ in range(4)
            ]
            link = await served.connect(device)
            await link.send(b"there")
            assert await link.receive() == b"there"
            line = "refused 127.0.0.2: too many of its connections were unauthenticated"
            assert await served.hears("refused") == line  # none for having taken too long
            with contextlib.suppress(ConnectionError):
                assert await strangers[0][0].read() == b""  # the oldest
            await link.close()
            await leave([writer for _, writer in strangers])

    asyncio.run(run())


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01"])
def test_a_connection_that_proves_nothing_is_ended(first: bytes, keys: RunKeys) -> None:
    async def run() -> None:
        async with serving(keys, limits=ConnectionLimits(proof_s=0.2)) as served:
            reader, writer = await asyncio.open_connection(LOOPBACK, served.port)
            writer.write(first)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            line = "refused 127.0.0.1: presented neither certificate nor token within 0.2 s"
            assert await served.hears("refused") == line
            await leave([writer])

    asyncio.run(run())


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n", b"\x00", b"E"]
)
def test_what_is_not_ours_is_answered_with_nothing(first: bytes, keys: RunKeys) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            reader, writer = await asyncio.open_connection(LOOPBACK, served.port)
            writer.write(first)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            line = "refused 127.0.0.1: does not speak TLS"
            assert await served.hears("refused") == line
            await leave([writer])

    asyncio.run(run())


def test_who_stays_when_the_server_has_hung_up_is_cut_off(
    keys: RunKeys, device: DeviceKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is proven, and its place is for others all the same."""
    monkeypatch.setattr(tls_link, "_CLOSE_S", 0.1)

    async def session(link: Link) -> None:
        pass

    async def run() -> None:
        async with serving(keys, session) as served:
            context = device_context(device)
            reader, writer = await asyncio.open_connection(
                LOOPBACK, served.port, ssl=context, server_hostname=SERVER_NAME
            )
            words = await reader.readexactly(8)
            assert words == b"".join(word.to_bytes(4, "little") for word in GREETED_AND_DONE)
            async with asyncio.timeout(PATIENCE_S):
                while served.server._listener._connections:  # the leech does not close
                    await asyncio.sleep(0.01)
            await leave([writer])

    asyncio.run(run())


def test_descriptors_that_run_out_are_waited_for(keys: RunKeys, device: DeviceKeys) -> None:
    """The server accepts again once there are some; links that are there live on."""

    async def run() -> None:
        async with serving(keys) as served:
            link = await served.connect(device)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            late = socket.create_connection((LOOPBACK, served.port))
            late.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            try:
                await served.hears("a connection could not be accepted: Too many open files")
                await link.send(b"still there")
                assert await link.receive() == b"still there"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            late.close()
            assert "refused" in await served.hears("disconnected before it presented")
            await link.close()

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(5))
def test_who_comes_as_it_stops_is_cut_off_and_nothing_is_left_open(
    turns: int, keys: RunKeys
) -> None:
    """However far the event loop is with taking the connection."""

    async def run() -> None:
        async with serving(keys) as served:
            with socket.create_connection((LOOPBACK, served.port)) as late:
                late.sendall(b"\x16\x03\x01")
                for _ in range(turns):
                    await asyncio.sleep(0)
                await served.server.stop()
                late.setblocking(False)
                async with asyncio.timeout(PATIENCE_S):
                    with contextlib.suppress(ConnectionError):
                        assert await asyncio.get_running_loop().sock_recv(late, 1) == b""

    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(one.message) for one in left] == []


def test_an_address_that_is_taken_is_an_error(keys: RunKeys) -> None:
    async def run(port: int) -> None:
        with pytest.raises(OSError, match="Address already in use"):
            async with serving(keys, port=port):
                pass

    with socket.create_server((LOOPBACK, 0)) as taken:
        asyncio.run(run(taken.getsockname()[1]))
