"""Sockets behind the listener: numbered, for this user alone, gone at the end."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutlayer.net.wire.listener import InnerSockets, number_of


@pytest.fixture
def inner() -> Iterator[InnerSockets]:
    sockets = InnerSockets()
    yield sockets
    sockets.close()


def test_a_server_sees_the_number_of_each_connection(inner: InnerSockets) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(inner.path("server"))
        server.listen()
        for expected in (1, 2):
            number, connection = inner.connect(inner.path("server"))
            there, peer = server.accept()
            assert number == expected == number_of(peer)
            connection.close()
            there.close()


@pytest.mark.parametrize("peer", ["", "unix:", "unix:/tmp/cutlayer-x/server", "ipv4:127.0.0.1:80"])
def test_others_have_no_number(peer: str) -> None:
    assert number_of(peer) is None


def test_nobody_else_may_enter_and_nothing_stays(inner: InnerSockets) -> None:
    folder = Path(inner.path("server")).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(OSError, match="No such file"):
        inner.connect(inner.path("nobody"))
    assert list(folder.iterdir()) == []
    inner.close()
    assert not folder.exists()


def test_a_server_that_has_no_time_is_not_waited_for(inner: InnerSockets) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(inner.path("server"))
        server.listen(0)
        held = [inner.connect(inner.path("server"))[1]]
        with pytest.raises(BlockingIOError):
            inner.connect(inner.path("server"))
        for connection in held:
            connection.close()
