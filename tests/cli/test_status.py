"""What `cutlayer status` says where no server of a run answers."""

import socket
import threading
from collections.abc import Iterator

import pytest

from cutlayer.cli.main import main

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something else, which gives one answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            there, _ = listening.accept()
            with there:
                there.recv(4096)
                there.sendall(request.param)

        thread = threading.Thread(target=once)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_nobody_there_is_said_without_the_librarys_wrapping(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    assert main(["status", address]) == 2
    assert f"no status from {address}: connection refused; is" in capsys.readouterr().err


@pytest.mark.parametrize(
    "other",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        OK + b"<html>",
        OK + b"7",
        OK + b"{}",
        OK + b"\xff",
    ],
    indirect=True,
)
def test_something_else_is_one_line(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", other]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"no status from {other}: " in err
