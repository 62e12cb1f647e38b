"""What a server's operators are told, and what others who ask are."""

import asyncio
import json
from contextlib import suppress
from dataclasses import asdict

import pytest

from cutlayer.cli.main import main
from cutlayer.net.gate import LOOPBACK
from cutlayer.net.operations import Operations
from cutlayer.net.status import DeviceStatus, Held, Status

STATUS = Status(
    run="run",
    round=2,
    rounds=5,
    finished=False,
    local_steps=10,
    devices=(DeviceStatus("pi-0", True, 3, False), DeviceStatus(None, False, 0, False)),
    payload_bytes={"activation": 4096},
    held=Held(now_bytes=1000, most_bytes=9000),
)


async def ask(request: bytes) -> bytes:
    page = Operations(lambda: STATUS)
    port = await page.open(LOOPBACK, 0)
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        # who says too much may be cut off before all of it is read
        with suppress(ConnectionError):
            writer.write(request)
            writer.write_eof()
            return await reader.read()
        return b""
    finally:
        writer.close()
        await page.close()


def get(path: str) -> tuple[str, str]:
    """Status line and body."""
    answer = asyncio.run(ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return head.split("\r\n")[0], body


def test_health_and_status() -> None:
    assert get("/health") == ("HTTP/1.1 200 OK", "ok\n")
    line, body = get("/status")
    assert line == "HTTP/1.1 200 OK"
    assert json.loads(body) == json.loads(json.dumps(asdict(STATUS)))


def test_metrics_are_the_status() -> None:
    _, body = get("/metrics")
    values = dict(line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
    assert float(values["cutlayer_round"]) == 2
    assert float(values["cutlayer_devices"]) == 2
    assert float(values["cutlayer_devices_connected"]) == 1
    assert float(values['cutlayer_payload_bytes_total{payload="activation"}']) == 4096
    assert float(values["process_resident_memory_bytes"]) > 0


def test_other_pages_and_methods() -> None:
    assert get("/")[0] == "HTTP/1.1 404 Not Found"
    assert asyncio.run(ask(b"POST /status HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize("request_bytes", [b"", b"GET /health", b"\xff" * 100_000])
def test_what_is_no_request_gets_nothing(request_bytes: bytes) -> None:
    assert asyncio.run(ask(request_bytes)) == b""


def test_the_command_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    async def play(*words: str) -> int:
        page = Operations(lambda: STATUS)
        port = await page.open(LOOPBACK, 0)
        try:
            return await asyncio.to_thread(main, ["status", f"{LOOPBACK}:{port}", *words])
        finally:
            await page.close()

    assert asyncio.run(play()) == 0
    shown = capsys.readouterr().out
    assert "round 2 of 5" in shown and "pi-0" in shown and "3 of 10" in shown
    assert asyncio.run(play("--json")) == 0
    assert json.loads(capsys.readouterr().out)["devices"][0]["name"] == "pi-0"


def test_the_command_says_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    async def closed() -> int:
        page = Operations(lambda: STATUS)
        port = await page.open(LOOPBACK, 0)
        await page.close()
        return port

    assert main(["status", f"{LOOPBACK}:{asyncio.run(closed())}"]) == 2
    assert "is `cutlayer serve` running there" in capsys.readouterr().err
