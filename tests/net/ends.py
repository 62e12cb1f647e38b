"""Both ends of links on loopback, for tests: a run's keys, devices, a server, a cable to cut."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cutlayer.logs import records_to
from cutlayer.net.identity.credentials import (
    DeviceKeys,
    Signed,
    device_keys,
    new_key,
    signing_request,
)
from cutlayer.net.identity.run_keys import RunKeys, init_keys
from cutlayer.net.wire.link import ConnectionLimits, Link, LinkClosed
from cutlayer.net.wire.link_server import LinkServer, OnLink, serve
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.net.wire.messages import Outline
from cutlayer.net.wire.tls_link import connect

LIMITS = ConnectionLimits()
OUTLINE = Outline("text-classification", ("neg", "pos"))
# for what must happen: a test that waits so long has failed
PATIENCE_S = 30.0


def run_keys(folder: Path) -> RunKeys:
    """Keys of a new run, in a folder that is not there yet."""
    return init_keys(folder, time.time())


def enrolled(keys: RunKeys, name: str) -> DeviceKeys:
    """A device of the run, enrolled without a network."""
    token = keys.invite(name, 60.0, time.time())
    key = new_key()
    certificate = keys.enrol(name, token.secret, signing_request(key, name), time.time())
    return device_keys(Signed(key, certificate), keys.authority.certificate)


@dataclass
class Served:
    """A server, and what it said."""

    server: LinkServer
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def connect(self, keys: DeviceKeys, limits: ConnectionLimits = LIMITS) -> Link:
        """A device's link, straight to the server."""
        return await connect(self.address, keys, limits)

    async def hears(self, words: str) -> str:
        """The first line with these words, once it was said."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for line in self.said:
                    if words in line:
                        return line
                await asyncio.sleep(0.01)


async def echo(link: Link) -> None:
    """A session that sends back what it receives."""
    while True:
        await link.send(await link.receive())


@contextlib.asynccontextmanager
async def serving(
    keys: RunKeys,
    on_link: OnLink = echo,
    limits: ConnectionLimits = LIMITS,
    port: int = 0,
    outline: Outline = OUTLINE,
) -> AsyncIterator[Served]:
    """A server on a port of the system's choice, stopped at the end."""
    said: list[str] = []

    def hear(record: logging.LogRecord) -> None:
        if record.name in ("cutlayer.net.wire.listener", "cutlayer.net.wire.link_server"):
            said.append(record.getMessage())

    with records_to(hear):
        server = await serve((LOOPBACK, port), keys, on_link, limits, outline)
        try:
            yield Served(server, said)
        finally:
            await server.stop()


@contextlib.asynccontextmanager
async def both_ends(
    keys: RunKeys, limits: ConnectionLimits = LIMITS
) -> AsyncIterator[tuple[Served, Callable[[], Awaitable[Link]]]]:
    """A server whose sessions do nothing, and what waits for its end of the next link."""
    came: asyncio.Queue[Link] = asyncio.Queue()
    over = asyncio.Event()

    async def other_end() -> Link:
        async with asyncio.timeout(PATIENCE_S):
            return await came.get()

    async def session(link: Link) -> None:
        came.put_nowait(link)
        await over.wait()

    async with serving(keys, session, limits) as served:
        try:
            yield served, other_end
        finally:
            over.set()


async def ending(link: Link) -> str:
    """Why a link has ended, once it has."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                await link.receive()
        except LinkClosed as closed:
            return str(closed)


class Cable:
    """TCP connections that go through here, and can be cut, or left hanging.

    `carried_bytes`: what has gone through, both ways.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.carried_bytes = 0
        self._pulled = asyncio.Event()
        self._cut_within = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Cable":
        self._server = await asyncio.start_server(self._lay, LOOPBACK, 0)
        self.address = f"{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Both ends of every connection see it reset."""
        for writer in self._writers:
            writer.transport.abort()

    async def cut_within(self) -> None:
        """Cut all connections when the next bytes of one are half through."""
        self._cut_within.set()
        while self._cut_within.is_set():
            await asyncio.sleep(0.001)

    def pull(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self._pulled.set()

    async def _lay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._over:  # somebody came again as it ended
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(LOOPBACK, self._to)
        except ConnectionError:  # nobody is there
            writer.transport.abort()
            return
        self._writers.append(back)
        if self._over:
            self.cut()
            return
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if self._pulled.is_set():
                    await asyncio.Event().wait()
                if self._cut_within.is_set():
                    sink.write(data[: len(data) // 2])
                    self.cut()
                    self._cut_within.clear()
                    return
                self.carried_bytes += len(data)
                sink.write(data)
                await sink.drain()
            sink.close()
