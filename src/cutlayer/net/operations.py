"""A server's page for its operators: `/health`, `/status` as JSON, `/metrics` for Prometheus.

Plain HTTP and no names or passwords: for loopback, or a network of one's own. Knows nothing of
sessions; it is given what tells the status.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cutlayer.net.status import Status

_TIMEOUT_S = 5.0
_LARGEST_BYTES = 4096
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"

Ask = Callable[[], Status]


@final
class Operations:
    """The page; `ask` gives the status."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._registry = CollectorRegistry()
        self._registry.register(_Metrics(ask))
        ProcessCollector(registry=self._registry)
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError if the address is not to be had."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_LARGEST_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(request.split(b"\r\n")[0]))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so gets nothing
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, line: bytes) -> bytes:
        match line.split(b" ")[:2]:
            case [b"GET", b"/health"]:
                return _response("200 OK", _TEXT, b"ok\n")
            case [b"GET", b"/status"]:
                status = json.dumps(asdict(self._ask()), indent=1) + "\n"
                return _response("200 OK", _JSON, status.encode())
            case [b"GET", b"/metrics"]:
                return _response("200 OK", _TEXT, generate_latest(self._registry))
            case [b"GET", _]:
                return _response("404 Not Found", _TEXT, b"/health, /status or /metrics\n")
            case _:
                return _response("405 Method Not Allowed", _TEXT, b"GET alone\n")


@final
class _Metrics(Collector):
    """The status as Prometheus names things."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        status = self._ask()
        connected = sum(device.connected for device in status.devices)
        done = sum(device.adapter_sent for device in status.devices)
        for name, meaning, value in (
            ("round", "round in progress", status.round),
            ("rounds", "rounds of the run", status.rounds),
            ("devices", "devices of the run", len(status.devices)),
            ("devices_connected", "devices that are here", connected),
            ("devices_done", "devices whose adapter of the round has come", done),
            ("adapters_lacking", "adapters that a round past its deadline lacks", status.lacking),
        ):
            yield GaugeMetricFamily(f"cutlayer_{name}", meaning, value)
        sent = CounterMetricFamily(
            "cutlayer_payload_bytes", "bytes sent and received, by payload", labels=["payload"]
        )
        for payload, count in status.payload_bytes.items():
            sent.add_metric([payload], count)
        yield sent


def _response(code: str, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
