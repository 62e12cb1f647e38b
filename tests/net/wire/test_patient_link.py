"""Who does not read is given up; who is only sent to slowly is not."""

import asyncio

import pytest

from cutlayer.net.wire.link import LinkClosed, PacedLink, PatientLink
from net.memory_link import memory_links


def test_a_device_that_does_not_read_is_given_up() -> None:
    async def go() -> None:
        device, server = memory_links("device-0", "server", frames=1)
        link = PatientLink(server, 0.01)
        await link.send(b"read in time")
        with pytest.raises(LinkClosed, match=r"not read for 0\.01 s"):
            await link.send(b"never read")
        assert await device.receive() == b"read in time"
        with pytest.raises(LinkClosed, match="not read"):
            await device.receive()

    asyncio.run(go())


def test_the_senders_own_pace_is_not_the_readers() -> None:
    """Twenty times the patience goes by before the frame may leave."""

    async def go() -> None:
        device, server = memory_links("device-0", "server")
        # 100 bytes of them beyond the burst, at 500 a second
        link = PacedLink(PatientLink(server, 0.01), lambda: 4000.0, burst_bytes=1)
        sending = asyncio.create_task(link.send(bytes(101)))
        assert await device.receive() == bytes(101)
        await sending
        await device.send(b"heard")
        assert link.peer == "device-0" and await link.receive() == b"heard"
        await link.close("done")
        with pytest.raises(LinkClosed, match="done"):
            await device.receive()

    asyncio.run(go())
