"""What devices can make a server hold: the sum, and devices that try for more."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from cutlayer.codec.codec import EMPTY
from cutlayer.codec.raw import RawCodec, Targets, encode_targets
from cutlayer.jobs.network import MemoryBound, memory_bound
from cutlayer.jobs.prepare import prepare
from cutlayer.net.identity.credentials import DeviceKeys
from cutlayer.net.server.driver import ServerDriver
from cutlayer.net.wire.frames import (
    Bounds,
    Wire,
    bounds_of,
    device_limits,
    largest_frame,
    server_limits,
)
from cutlayer.net.wire.link import OUTBOX_FRAMES, ConnectionLimits, Link, LinkClosed, PatientLink
from cutlayer.net.wire.messages import Activation, Hello, Micro, Position
from cutlayer.net.wire.tls_link import SCRATCH_BYTES, TRANSPORT_BYTES, TlsLink
from cutlayer.spec import MiniBatch
from cutlayer.training.state import Setup
from cutlayer.units import KIB, MIB
from net.ends import Served, enrolled, run_keys, serving
from net.harness import Run

BOUNDS = Bounds(
    activation_bytes=MIB,
    labels_bytes=KIB,
    gradient_bytes=MIB,
    adapter_bytes=2 * MIB,
    samples=8,
    tokens=16,
    width=24,
    steps=2,
)
UP, DOWN = largest_frame(server_limits(BOUNDS)), largest_frame(device_limits(BOUNDS))
SAMPLES, TOKENS, WIDTH = 1024, 16, 24
STEPS = 2


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*vision, codec="none")).setup


def test_a_connection_more_and_a_device_more() -> None:
    """What each adds, from the largest frames."""
    limits = ConnectionLimits(connections=10, frame_bytes=UP)
    base = memory_bound(BOUNDS, 4, limits).total
    connection = memory_bound(BOUNDS, 4, replace(limits, connections=11)).total - base
    # what is within asyncio and TLS, what is read behind a frame, two frames
    assert connection == TRANSPORT_BYTES + SCRATCH_BYTES + 2 * UP
    device = memory_bound(BOUNDS, 5, limits).total - base
    assert device == UP + (OUTBOX_FRAMES + 1) * DOWN + MIB + 2 * MIB


@dataclass
class Watch:
    """The most that a server held, looked at whenever its loop goes round."""

    served: Served
    driver: ServerDriver
    in_links: int = 0
    in_sessions: int = 0

    async def look(self) -> None:
        while True:
            self.in_links = max(self.in_links, self.served.server.held_bytes)
            self.in_sessions = max(self.in_sessions, self.driver.held_bytes)
            await asyncio.sleep(0)


def activation() -> Activation:
    """The largest that the run takes."""
    values = np.random.default_rng(0).standard_normal((SAMPLES, TOKENS, WIDTH)).astype(np.float32)
    packet = RawCodec().encode(values, EMPTY, np.random.default_rng(0)).packet
    labels = encode_targets(Targets(np.arange(SAMPLES) % tiny.CLASSES), None, tiny.CLASSES)
    return Activation(Position(1, 0, 0), Micro(1.0, True), packet, labels, tuple(range(SAMPLES)))


async def never_reads(link: Link, bounds: Bounds) -> None:
    """Asks for its reply again and again."""
    wire, same = Wire(device_limits(bounds)), activation()
    await link.send(wire.outgoing(Hello(0)))
    while True:
        await link.send(wire.outgoing(same))


async def stops_within_a_frame(link: Link, bounds: Bounds) -> None:
    """Its length, and its first mebibyte."""
    size = largest_frame(server_limits(bounds))
    assert size > MIB
    assert isinstance(link, TlsLink)
    link._transport.write(size.to_bytes(4, "little") + bytes(MIB))
    try:
        await link.receive()
    finally:
        link.abort("enough")


async def sends_too_much(link: Link, bounds: Bounds) -> None:
    """A frame longer than any of the run."""
    await link.send(bytes(16 * MIB))
    await link.receive()


def flooded(
    flood: Callable[[Link, Bounds], Awaitable[None]], setup: Setup, folder: Path
) -> tuple[Watch, MemoryBound]:
    """What a server held while all its devices did `flood`, time and again."""
    run = Run(setup, folder / "run")
    parameters = setup.server.device_part.adapted.layout.parameters
    run.bounds = bounds_of(MiniBatch(SAMPLES, TOKENS), WIDTH, parameters, STEPS)
    limits = ConnectionLimits(connections=8, frame_bytes=largest_frame(server_limits(run.bounds)))
    _, driver = run.server()
    keys = run_keys(folder / "keys")

    async def attend(link: Link) -> None:
        await driver.attend(int(link.peer.rpartition("-")[2]), PatientLink(link, 0.2))

    async def device(served: Served, own: DeviceKeys) -> None:
        for _ in range(2):
            link = await served.connect(own)
            with contextlib.suppress(LinkClosed, TimeoutError):
                async with asyncio.timeout(1.0):
                    await flood(link, run.bounds)
            await link.close()

    async def play() -> Watch:
        own = [enrolled(keys, f"pi-{number}") for number in range(len(setup.devices))]
        async with serving(keys, attend, limits) as served:
            watch = Watch(served, driver)
            looking = asyncio.create_task(watch.look())
            await asyncio.gather(*(device(served, one) for one in own))
            looking.cancel()
        return watch

    return asyncio.run(play()), memory_bound(run.bounds, len(setup.devices), limits)


@pytest.mark.parametrize("flood", [never_reads, stops_within_a_frame, sends_too_much])
def test_no_flood_goes_beyond_the_bound(
    flood: Callable[[Link, Bounds], Awaitable[None]], setup: Setup, tmp_path: Path
) -> None:
    watch, bound = flooded(flood, setup, tmp_path)
    assert watch.in_links <= bound.in_transport + bound.in_links
    assert watch.in_sessions <= bound.in_sessions
    # each did what it is for: an outbox was full of replies, frames waited for their rest
    if flood is never_reads:
        assert watch.in_sessions >= OUTBOX_FRAMES * len(activation().packet)
    if flood is stops_within_a_frame:
        assert watch.in_links >= len(setup.devices) * MIB
    if flood is sends_too_much:
        assert watch.in_sessions == 0
        assert any("where" in line and "are the limit" in line for line in watch.served.said)
