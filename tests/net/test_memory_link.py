"""Links in memory: in order, bounded, and closed for both ends at once."""

import asyncio

import pytest

from cutlayer.net.link import LinkClosed
from cutlayer.net.memory_link import memory_links


def test_frames_arrive_in_order_and_then_the_end() -> None:
    async def go() -> list[bytes]:
        device, server = memory_links("device-0", "server")
        assert (device.peer, server.peer) == ("server", "device-0")
        for frame in (b"a", b"b"):
            await device.send(frame)
        await device.close("done")
        found = [await server.receive(), await server.receive()]
        with pytest.raises(LinkClosed, match="done"):
            await server.receive()
        with pytest.raises(LinkClosed, match="done"):
            await server.send(b"c")
        await device.close("again")
        return found

    assert asyncio.run(go()) == [b"a", b"b"]


def test_a_writer_waits_for_a_slow_reader() -> None:
    async def go() -> None:
        device, server = memory_links("device-0", "server", frames=2)
        sent = 0

        async def write() -> None:
            nonlocal sent
            for _ in range(10):
                await device.send(b"frame")
                sent += 1

        writer = asyncio.create_task(write())
        for read in range(8):
            for _ in range(20):
                await asyncio.sleep(0)
            assert sent == read + 2
            await server.receive()
        await writer

    asyncio.run(go())


def test_closing_wakes_those_who_wait() -> None:
    async def go() -> list[object]:
        device, server = memory_links("device-0", "server", frames=1)
        await device.send(b"fills the queue")
        waiting = [
            asyncio.create_task(device.send(b"waits")),
            asyncio.create_task(device.receive()),
        ]
        await asyncio.sleep(0)
        await server.close("cut")
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(found, LinkClosed) for found in asyncio.run(go()))
