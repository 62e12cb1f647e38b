"""The listener: bytes go through whole, at the pace of the slower side, and ends are passed on."""

import asyncio
import contextlib
import gc
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cutlayer.logs import lines_to
from cutlayer.net.wire.link import ConnectionLimits
from cutlayer.net.wire.listener import ENROL, LOOPBACK, TLS, Listener
from cutlayer.units import KIB, MIB
from net.ends import PATIENCE_S

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listener_before(serve: Serve) -> AsyncIterator[tuple[Listener, int]]:
    """A listener with one server behind for both first bytes."""
    listener = Listener(ConnectionLimits())
    behind = listener.inner.path("server")
    server = await asyncio.start_unix_server(serve, behind)
    port = await listener.open(LOOPBACK, 0, {TLS: behind, ENROL: behind})
    try:
        yield listener, port
    finally:
        await listener.close()
        server.close()


def test_bytes_go_through_whole_both_ways_and_so_does_the_end() -> None:
    sent = bytes(range(256)) * (20 * MIB // 256)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())  # until the other end has said all
        await writer.drain()
        writer.close()

    async def run() -> None:
        async with listener_before(serve) as (_, port):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(TLS + sent)
            writer.write_eof()
            assert await reader.read() == TLS + sent
            writer.close()
            await writer.wait_closed()

    asyncio.run(run())


def test_the_byte_that_asks_to_enrol_is_not_passed_on() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        writer.close()

    async def run() -> None:
        async with listener_before(serve) as (_, port):
            for first, seen in ((ENROL, b"hello"), (TLS, TLS + b"hell")):
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.write(first + b"hello")
                assert await reader.read() == seen
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    asyncio.run(run())


def test_who_does_not_read_stops_who_sends() -> None:
    """What the listener holds of it is one buffer; the rest is what the system holds of two
    sockets, 6 MiB each at Linux's largest."""
    over: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        over.append(writer)

    async def run() -> None:
        async with listener_before(serve) as (_, port):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(TLS)
            sent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while sent < 1024 * MIB:
                        writer.write(bytes(256 * KIB))
                        await writer.drain()
                        sent += 256 * KIB
            assert sent <= 32 * MIB
            writer.transport.abort()
            for one in over:
                one.transport.abort()

    asyncio.run(run())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_who_stays_when_the_server_has_hung_up_is_cut_off(end: str) -> None:
    """It is proven, and its place is for others all the same."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"bye")
        await writer.drain()
        getattr(writer.transport, end)()

    async def run() -> None:
        async with listener_before(serve) as (listener, port):
            with socket.create_connection((LOOPBACK, port)) as leech:
                leech.sendall(TLS)
                async with asyncio.timeout(PATIENCE_S):
                    while not (connections := tuple(listener._connections)):
                        await asyncio.sleep(0.01)
                    connections[0].prove()
                    while listener._connections:  # the leech neither closes nor reads
                        await asyncio.sleep(0.01)
                assert not listener._by_number
                assert leech.recv(3) == b"bye"

    asyncio.run(run())


def test_a_server_behind_that_is_gone_ends_the_connection() -> None:
    said: list[str] = []

    async def run() -> None:
        listener = Listener(ConnectionLimits())
        port = await listener.open(LOOPBACK, 0, {TLS: listener.inner.path("nobody")})
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(TLS)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await listener.close()
        assert listener.refusals == 1

    with lines_to(said.append):
        asyncio.run(run())
    assert said == ["refused 127.0.0.1: the server is stopping"]


def test_a_visitor_is_known_by_its_name_behind() -> None:
    peers: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        writer.write(await reader.read(1))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async def run() -> None:
        async with listener_before(serve) as (listener, port):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(TLS)
            assert await reader.readexactly(1) == TLS
            connection = listener.connection_of(peers[0])
            assert connection is not None and connection.address == LOOPBACK
            connection.prove()
            connection.prove()
            connection.end()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert listener.connection_of(peers[0]) is None
            connection.prove()  # too late for anything
            connection.end()

    said: list[str] = []
    with lines_to(said.append):
        asyncio.run(run())
    assert said == []


@pytest.mark.parametrize("turns", range(5))
def test_who_comes_as_it_closes_is_cut_off_and_nothing_is_left_open(turns: int) -> None:
    """However far the event loop is with taking the connection."""

    async def run() -> None:
        listener = Listener(ConnectionLimits())
        port = await listener.open(LOOPBACK, 0, {})
        with socket.create_connection((LOOPBACK, port)) as late:
            for _ in range(turns):
                await asyncio.sleep(0)
            await listener.close()
            late.setblocking(False)
            async with asyncio.timeout(PATIENCE_S):
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.get_running_loop().sock_recv(late, 1) == b""

    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(one.message) for one in left] == []
