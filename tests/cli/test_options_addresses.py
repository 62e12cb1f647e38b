"""Addresses as arguments."""

import argparse

import pytest

from cutlayer.cli.settings import host_and_port


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7700", ("127.0.0.1", 7700)),
        ("server.lan:0", ("server.lan", 0)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_hosts_and_ports(text: str, address: tuple[str, int]) -> None:
    assert host_and_port(text) == address


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:x", "host:65536", "host:-1"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="HOST:PORT"):
        host_and_port(text)
