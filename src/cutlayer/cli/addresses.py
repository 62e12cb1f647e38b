"""Addresses as arguments: HOST:PORT."""

import argparse


def host_and_port(text: str) -> tuple[str, int]:
    """The two parts of `HOST:PORT`; IPv6 in brackets."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT with a port up to 65535, such as 192.168.1.10:7700"
        )
    return host, int(port)
