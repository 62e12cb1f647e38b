"""Whether a server can listen: found out without leaving anything behind."""

import socket

import pytest

from cutlayer.errors import RunError
from cutlayer.jobs.check import try_addresses

LOOPBACK = "127.0.0.1"


def test_what_is_free_stays_free() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = int(server.getsockname()[1])
    for _ in range(2):
        try_addresses({"listen": (LOOPBACK, port), "operators": (LOOPBACK, 0)})
    with socket.create_server((LOOPBACK, port)) as server:
        assert server.getsockname() == (LOOPBACK, port)


def test_what_is_taken_is_named_with_what_gives_it() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = int(taken.getsockname()[1])
        with pytest.raises(RunError, match=rf"127.0.0.1:{port}: .*in use; .* as operators"):
            try_addresses({"listen": (LOOPBACK, 0), "operators": (LOOPBACK, port)})


def test_one_port_for_two_things() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = int(server.getsockname()[1])
    with pytest.raises(RunError, match="in use"):
        try_addresses({"listen": (LOOPBACK, port), "operators": (LOOPBACK, port)})


def test_an_address_of_another_machine() -> None:
    """192.0.2.0/24 is nobody's (RFC 5737)."""
    with pytest.raises(RunError, match=r"cannot listen on 192.0.2.1:0: .* as listen"):
        try_addresses({"listen": ("192.0.2.1", 0)})
