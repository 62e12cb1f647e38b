"""What of HTTP is understood, and who is refused."""

import pytest

from cutlayer.net.operations.web import is_ours, read_request


def test_a_request() -> None:
    request = read_request(b"GET /rounds?after=7&x=%20 HTTP/1.1\r\nhOsT:  pi:7701 \r\nA: b\r\n\r\n")
    assert (request.method, request.path, request.host) == ("GET", "/rounds", "pi:7701")
    assert request.query == {"after": "7", "x": " "}
    assert read_request(b"GET / HTTP/1.0\r\n\r\n").host is None


@pytest.mark.parametrize("head", [b"\r\n\r\n", b"GET /\r\n\r\n", b"a b c d\r\n\r\n"])
def test_what_is_no_request(head: bytes) -> None:
    with pytest.raises(ValueError, match="unpack"):
        read_request(head)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:7701", "[::1]:7701", "192.168.1.10:7701", "localhost:1", "LOCALHOST"],
)
def test_addresses_and_localhost_are_ours(host: str) -> None:
    assert is_ours(host, "0.0.0.0")


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:7701",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "[",
    ],
)
def test_other_names_are_not(host: str | None) -> None:
    assert not is_ours(host, "127.0.0.1")


def test_the_name_that_it_listens_on_is_ours() -> None:
    assert is_ours("server.lan:7701", "Server.lan")
    assert not is_ours("other.lan:7701", "server.lan")
