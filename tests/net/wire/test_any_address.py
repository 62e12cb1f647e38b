"""`::` is any address: whoever has an IPv4 address gets in, too."""

import asyncio
import contextlib
import socket
from http import HTTPStatus

import pytest

from cutlayer.errors import RunError
from cutlayer.jobs.check import try_addresses
from cutlayer.logs import lines_to
from cutlayer.net.operations.web import Answer, Web, text_answer
from cutlayer.net.wire.link import ConnectionLimits
from cutlayer.net.wire.listener import LOOPBACK, Connection, Listener, any_socket, plain_address

HOME = (LOOPBACK, "::1")
pytestmark = pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="no sockets for both kinds of addresses here"
)


async def nobody(connection: Connection) -> None:
    raise AssertionError(connection)


@pytest.mark.parametrize("host", ["::", "0:0:0:0:0:0:0:0"])
def test_devices_of_both_kinds_get_to_the_gate(host: str) -> None:
    """Refused, since they say nothing of ours; by the address that they have."""
    said: list[str] = []

    async def run() -> None:
        listener = Listener(ConnectionLimits(), nobody)
        port = await listener.open(host, 0)
        for address in HOME:
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET / HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await listener.close()

    with lines_to(said.append):
        asyncio.run(run())
    assert [line.split(": ")[0] for line in said] == [f"refused {address}" for address in HOME]


def test_operators_of_both_kinds_are_answered() -> None:
    async def run() -> None:
        def answer(request: object) -> Answer:
            return text_answer(HTTPStatus.OK, "well")

        web = Web(answer)
        port = await web.open("::", 0)
        for address in HOME:
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            assert (await reader.read()).endswith(b"well\n")
            writer.close()
            await writer.wait_closed()
        await web.close()

    asyncio.run(run())


def test_it_is_tried_as_it_will_be_listened() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = int(taken.getsockname()[1])
        with pytest.raises(RunError, match="in use"):
            try_addresses({"--listen": ("::", port)})
    for _ in range(2):
        try_addresses({"--listen": ("::", port)})


def test_other_addresses_are_what_they_are() -> None:
    for host in ("0.0.0.0", LOOPBACK, "::1", "localhost", "a name"):
        assert any_socket(host, 0) is None
    assert plain_address("::ffff:192.0.2.7") == "192.0.2.7"
    for address in ("192.0.2.7", "2001:db8::7", "fe80::1%eth0"):
        assert plain_address(address) == address


def test_a_system_without_such_sockets_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    found = any_socket("::", 0)
    assert found is not None
    found.close()
    assert "accepts IPv6 only on this system; for IPv4 listen on 0.0.0.0" in caplog.text
