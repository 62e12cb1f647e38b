"""Links over TLS on loopback: frames of all sizes, slow readers, cuts, and who gets none."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from cutlayer.errors import FrameError
from cutlayer.net.identity.credentials import SERVER_NAME, DeviceKeys
from cutlayer.net.identity.run_keys import RunKeys
from cutlayer.net.wire.link import ConnectionLimits, Link, LinkClosed
from cutlayer.net.wire.tls_link import CLOSED, connect
from cutlayer.units import MIB
from net.ends import (
    LIMITS,
    PATIENCE_S,
    Cable,
    Served,
    both_ends,
    echo,
    ending,
    enrolled,
    run_keys,
    serving,
)


@pytest.fixture
def keys(tmp_path: Path) -> RunKeys:
    return run_keys(tmp_path / "keys")


@pytest.fixture
def device(keys: RunKeys) -> DeviceKeys:
    return enrolled(keys, "pi")


def test_frames_of_all_sizes_both_ways(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        rng = random.Random(0)
        async with serving(keys) as served:
            link = await served.connect(device)
            assert link.peer == SERVER_NAME
            for count in (0, 1, 1000, MIB - 4, MIB - 3, 5_000_000, 20 * MIB):
                frame = rng.randbytes(count)
                await link.send(frame)
                assert await link.receive() == frame
            await link.close()

    asyncio.run(run())


def test_frames_stay_in_order_and_whole_when_many_send_at_once(
    keys: RunKeys, device: DeviceKeys
) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            link = await served.connect(device)
            frames = [bytes([number]) * (number * 300_000) for number in range(8)]
            sending = [asyncio.create_task(link.send(frame)) for frame in frames]
            assert [await link.receive() for _ in frames] == frames
            await asyncio.gather(*sending)
            await link.close()

    asyncio.run(run())


def test_the_servers_end_has_the_name_of_the_certificate(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        names = asyncio.Queue[str]()

        async def session(link: Link) -> None:
            names.put_nowait(link.peer)

        async with serving(keys, session) as served:
            link = await served.connect(device)
            async with asyncio.timeout(PATIENCE_S):
                assert await names.get() == "pi"
            assert await ending(link) == CLOSED
            await link.close()

    asyncio.run(run())


@pytest.mark.parametrize("slow", ["server", "device"])
def test_a_slow_reader_stops_the_sender(slow: str, keys: RunKeys, device: DeviceKeys) -> None:
    """Nobody receives: what is accepted stays within what is bounded, then all of it arrives.

    Bounded are two frames at the reader, one under way at the sender, what TLS and the event loop
    have of it (2 MiB), and what the system holds of two sockets, 4 and 6 MiB at Linux's largest:
    15 MiB with frames of 1 MiB.
    """

    async def run() -> None:
        async with both_ends(keys) as (served, other_end):
            link = await served.connect(device)
            there = await other_end()
            sender, reader = (link, there) if slow == "server" else (there, link)
            sent = 0

            async def fill() -> None:
                nonlocal sent
                for _ in range(64):
                    await sender.send(bytes(MIB))
                    sent += 1

            filling = asyncio.create_task(fill())
            before = 0
            async with asyncio.timeout(PATIENCE_S):
                while sent == 0 or sent > before:
                    before = sent
                    await asyncio.sleep(0.5)
            assert sent <= 16
            for _ in range(64):
                assert len(await reader.receive()) == MIB
            await filling
            await link.close()

    asyncio.run(run())


def test_cancelling_a_receive_loses_nothing(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            link = await served.connect(device)
            for number in range(20):
                waiting = asyncio.create_task(link.receive())
                await asyncio.sleep(0)
                await link.send(bytes([number]))
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await waiting == bytes([number])
                    continue
                assert await link.receive() == bytes([number])
            await link.close()

    asyncio.run(run())


def test_cancelling_a_send_half_way_ends_the_link(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        async with both_ends(keys) as (served, other_end):
            link = await served.connect(device)
            there = await other_end()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    for _ in range(64):  # the server does not receive
                        await link.send(bytes(MIB))
            with pytest.raises(LinkClosed, match="given up half-way"):
                await link.send(b"")
            assert await ending(link) == "a frame was given up half-way"
            await link.close()
            await ending(there)

    asyncio.run(run())


def test_closing_lets_what_was_sent_arrive(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        async with both_ends(keys) as (served, other_end):
            link = await served.connect(device)
            there = await other_end()
            await link.send(bytes(MIB))
            await link.close("done")
            assert len(await there.receive()) == MIB
            assert await ending(there) == CLOSED
            with pytest.raises(LinkClosed, match="done"):
                await link.send(b"more")
            with pytest.raises(LinkClosed, match="done"):
                await link.receive()
            await link.close("again")

    asyncio.run(run())


def test_a_session_that_returns_closes_its_link(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        async def session(link: Link) -> None:
            await link.send(link.peer.encode())

        async with serving(keys, session) as served:
            link = await served.connect(device)
            assert await link.receive() == b"pi"
            assert await ending(link) == CLOSED
            await link.close()

    asyncio.run(run())


def test_a_session_that_fails_is_told_of_and_closes_its_link(
    keys: RunKeys, device: DeviceKeys
) -> None:
    failures: list[BaseException] = []

    async def run() -> None:
        async def session(link: Link) -> None:
            raise ArithmeticError(link.peer)

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        async with serving(keys, session) as served:
            link = await served.connect(device)
            await ending(link)
            await link.close()
            assert "the session of pi failed" in await served.hears("failed")

    asyncio.run(run())
    assert [type(failure) for failure in failures] == [ArithmeticError]


def test_a_session_that_refuses_what_it_gets_ends_the_link(
    keys: RunKeys, device: DeviceKeys
) -> None:
    async def run() -> None:
        async def session(link: Link) -> None:
            raise FrameError(f"{len(await link.receive())} bytes that mean nothing")

        async with serving(keys, session) as served:
            link = await served.connect(device)
            await link.send(b"noise")
            await ending(link)
            await link.close()
            assert await served.hears("refused") == "refused pi: 5 bytes that mean nothing"

    asyncio.run(run())


def test_a_link_that_is_cut_within_a_frame_is_closed_at_both_ends(
    keys: RunKeys, device: DeviceKeys
) -> None:
    async def run() -> None:
        async with both_ends(keys) as (served, other_end), Cable(served.port) as cable:
            link = await connect(cable.address, device, LIMITS)
            there = await other_end()
            for _ in range(2):  # these wait at the server, so that no more is read there
                await link.send(b"")
            sending = asyncio.create_task(link.send(bytes(40 * MIB)))
            await asyncio.wait({sending}, timeout=0.5)  # more than is ever on its way
            assert not sending.done()
            cable.cut()
            with pytest.raises(LinkClosed, match="the connection was cut"):
                await sending
            assert "cut" in await ending(link)
            assert "cut" in await ending(there)
            await link.close()

    asyncio.run(run())


def test_an_end_that_says_nothing_any_more_is_noticed(keys: RunKeys, device: DeviceKeys) -> None:
    # short, and longer than it takes a busy machine to open the link
    limits = ConnectionLimits(keepalive_s=2.0)

    async def run() -> None:
        async with both_ends(keys, limits) as (served, other_end), Cable(served.port) as cable:
            link = await connect(cable.address, device, limits)
            there = await other_end()
            cable.pull()
            assert "cut" in await ending(link)
            assert "cut" in await ending(there)
            await link.close()

    asyncio.run(run())


def test_an_idle_link_lives_on_and_so_does_one_whose_reader_is_busy(
    keys: RunKeys, device: DeviceKeys
) -> None:
    """Nothing is sent for many times what either end would wait for a sign of the other; then
    nothing is read for as long."""
    limits = ConnectionLimits(keepalive_s=0.4)

    async def run() -> None:
        async with both_ends(keys, limits) as (served, other_end):
            link = await served.connect(device, limits)
            there = await other_end()
            await asyncio.sleep(1.6)
            filling = asyncio.create_task(link.send(bytes(32 * MIB)))
            for _ in range(2):
                await there.send(b"in time")
            await asyncio.sleep(1.6)
            assert len(await there.receive()) == 32 * MIB
            await filling
            for _ in range(2):
                assert await link.receive() == b"in time"
            await link.close()

    asyncio.run(run())


def test_a_server_that_stops_closes_its_links(keys: RunKeys, device: DeviceKeys) -> None:
    async def run() -> None:
        async with serving(keys) as served:
            link = await served.connect(device)
            await link.send(b"hello")
            assert await link.receive() == b"hello"
            await served.server.stop()
            assert await ending(link) == CLOSED
            await link.close()
        assert served.said[-1] == "pi left: the server is stopping"
        with pytest.raises(LinkClosed, match="Connection refused"):
            await served.connect(device)

    asyncio.run(run())


def test_the_newer_link_of_a_device_takes_the_place_of_the_older(
    keys: RunKeys, device: DeviceKeys
) -> None:
    sessions = most = 0

    async def run() -> None:
        async def session(link: Link) -> None:
            nonlocal sessions, most
            sessions += 1
            most = max(most, sessions)
            try:
                await echo(link)
            finally:
                await asyncio.sleep(0.05)
                sessions -= 1

        async with serving(keys, session) as served:
            older = await served.connect(device)
            await older.send(b"first")
            assert await older.receive() == b"first"
            newer = [await served.connect(device) for _ in range(3)]
            await ending(older)
            await newer[-1].send(b"last")
            assert await newer[-1].receive() == b"last"
            for link in (older, *newer):
                await link.close()
            line = "pi left: a newer connection of pi took its place"
            assert await served.hears("took its place") == line

    asyncio.run(run())
    assert most == 1  # never two at once


def test_devices_do_not_disturb_each_other(keys: RunKeys) -> None:
    async def run() -> None:
        devices = [enrolled(keys, f"pi-{number}") for number in range(8)]

        async def work(served: Served, device: DeviceKeys) -> None:
            link = await served.connect(device)
            for count in (10, 100_000, 2_000_000):
                frame = device.name[-1].encode() * count
                await link.send(frame)
                assert await link.receive() == frame
            await link.close()

        async with serving(keys) as served:
            await asyncio.gather(*(work(served, device) for device in devices))

    asyncio.run(run())
