"""As much of HTTP as operators need: a GET comes, one answer goes, and the connection ends.

Knows no content, and neither TLS nor passwords. Who asks by a name that is not this server's is
refused: a page from elsewhere can make its own name point here (DNS rebinding), and would
otherwise read the answers as its own. `/health` and `/metrics` answer by any name, since scrapers
have names for a service of their own; they hold numbers, devices' names and why a run failed.
"""

import asyncio
import ipaddress
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import final
from urllib.parse import parse_qsl, urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client import generate_latest as metrics_text
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cutlayer.files import json_text
from cutlayer.net.operations.status import DeviceStatus, RunStatus
from cutlayer.net.wire.listener import any_socket, stop_listening
from cutlayer.training.records import RoundRecord, TrainedRound
from cutlayer.version import __version__

# A run's status as Prometheus names things: base units, one family a quantity.
#
# Knows the status and no connection. What nobody measured is left out, it is not 0.


_PASS_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@final
class StatusMetrics(Collector):
    """The families of what `ask` says."""

    def __init__(self, ask: Callable[[], RunStatus]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        status = self._ask()
        carried = status.payload_bytes
        yield _labelled("build_info", "the server's version", "version", {__version__: 1})
        yield from _of_run(status)
        yield from _of_devices(status.devices)
        yield _counter("payload_bytes", "sent and received, by payload", "payload", carried)
        yield _of_passes({int(size): count for size, count in status.passes.items()})
        refused = status.process.refused_connections
        yield CounterMetricFamily(
            "cutlayer_refused_connections", "refused by the listener", refused
        )
        if status.last is not None:
            yield from _of_round(status.last)


def _of_run(status: RunStatus) -> Iterator[Metric]:
    yield from _gauges(
        ("round", "round in progress", status.round),
        ("rounds", "rounds of the run", status.rounds),
        ("round_elapsed_seconds", "since the round in progress began", status.round_s),
        ("round_deadline_seconds", "when a quorum closes a round", status.deadline_s),
        ("quorum_devices", "devices that a round needs at its deadline", status.quorum),
        ("missing_adapters", "short of the quorum after the deadline", status.missing_adapters),
        ("held_bytes", "buffered for frames of devices", status.process.held.now_bytes),
        ("held_bytes_limit", "the limit of that", status.process.held.most_bytes),
        ("finished", "whether the run has ended", status.finished),
        ("failed", "whether the run has failed", status.process.failure is not None),
    )


def _of_passes(passes: Mapping[int, int]) -> Metric:
    """A histogram of how many mini-batches shared a pass."""

    def within(most: float) -> int:
        return sum(count for size, count in passes.items() if size <= most)

    buckets = [(f"{most:.1f}", float(within(most))) for most in _PASS_BUCKETS]
    return HistogramMetricFamily(
        "cutlayer_pass_mini_batches",
        "mini-batches that shared a pass of the server",
        buckets=[*buckets, ("+Inf", float(within(math.inf)))],
        sum_value=sum(size * count for size, count in passes.items()),
    )


def _of_devices(devices: tuple[DeviceStatus, ...]) -> Iterator[Metric]:
    here = sum(device.connected for device in devices)
    done = sum(device.adapter_sent for device in devices)
    yield from _gauges(
        ("devices", "devices of the run", len(devices)),
        ("devices_connected", "devices that are connected", here),
        ("devices_done", "devices whose adapter of the round has arrived", done),
    )
    named = {device.name: device for device in devices if device.name is not None}
    connected = {name: float(device.connected) for name, device in named.items()}
    steps = {name: device.local_steps for name, device in named.items()}
    up = {name: device.uplink_bytes for name, device in named.items()}
    down = {name: device.downlink_bytes for name, device in named.items()}
    yield _labelled("device_connected", "whether it is connected", "device", connected)
    yield _labelled("device_local_steps", "done of the round in progress", "device", steps)
    yield _counter("device_uplink_bytes", "received from a device", "device", up)
    yield _counter("device_downlink_bytes", "sent to a device", "device", down)
    refused = {name: device.refused_adapters for name, device in named.items()}
    yield _counter("device_refused_adapters", "that were not merged", "device", refused)


def _of_round(last: RoundRecord) -> Iterator[Metric]:
    yield from _gauges(
        ("last_round", "the last finished round; 0 is before training", last.round),
        ("last_round_accuracy_ratio", "on held-out samples after it", last.accuracy),
        ("last_round_perplexity", "on held-out samples after it", last.perplexity),
        ("last_round_eval_loss", "on held-out samples after it", last.eval_loss),
    )
    if isinstance(last, TrainedRound):
        yield from _gauges(
            ("last_round_seconds", "of the last finished round", last.delay_s),
            ("last_round_train_loss", "mean of its local steps", last.train_loss),
        )
        name, phases = "last_round_phase_seconds", last.delay_by_phase_s
        yield _labelled(name, "of the slowest device, by phase", "phase", phases)


def _gauges(*rows: tuple[str, str, float | None]) -> Iterator[Metric]:
    for name, meaning, value in rows:
        if value is not None and math.isfinite(value):
            yield GaugeMetricFamily(f"cutlayer_{name}", meaning, float(value))


def _labelled(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    return _filled(GaugeMetricFamily(f"cutlayer_{name}", meaning, labels=[label]), values)


def _counter(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    return _filled(CounterMetricFamily(f"cutlayer_{name}", meaning, labels=[label]), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for key, value in values.items():
        family.add_metric([key], value)
    return family


TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

_TIMEOUT_S = 5.0
_LARGEST_BYTES = 16 * 1024
# at once, and as many that the system keeps waiting: this port never has all descriptors
_MOST_CONNECTIONS = 32
_NOTHING = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Request:
    """What is asked for; `host` as the asker calls this server, None if it does not say."""

    method: str
    path: str
    query: Mapping[str, str]
    host: str | None


@dataclass(frozen=True)
class Answer:
    """What is answered. `policy`: what a browser may load and run for it (CSP)."""

    status: HTTPStatus
    kind: str
    body: bytes
    policy: str = _NOTHING

    def to_bytes(self) -> bytes:
        """As it goes over the connection; not to be kept, guessed at or embedded by anybody."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(self.body)}",
            f"Content-Security-Policy: {self.policy}",
            "X-Content-Type-Options: nosniff",
            "Cross-Origin-Resource-Policy: same-origin",
            "Referrer-Policy: no-referrer",
            "Cache-Control: no-store",
            "Connection: close",
        )
        return "\r\n".join((*head, "", "")).encode() + self.body


def text_answer(status: HTTPStatus, text: str) -> Answer:
    """An answer of one line."""
    return Answer(status, TEXT, f"{text}\n".encode())


def read_request(head: bytes) -> Request:
    """The request whose first lines are `head`. Raises ValueError for what is none."""
    line, *fields = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    named = (field.partition(":") for field in fields)
    hosts = [value.strip() for name, _, value in named if name.lower() == "host"]
    url = urlsplit(target)
    return Request(method, url.path, dict(parse_qsl(url.query)), hosts[0] if hosts else None)


def is_ours(host: str | None, bound: str) -> bool:
    """Whether `host` (`NAME`, `NAME:PORT`) can be this server, which listens on `bound`.

    An address, `localhost` and the name it was told to listen on can; nobody else's name can.
    """
    try:
        name = urlsplit(f"//{host or ''}").hostname
    except ValueError:
        return False
    return name is not None and (name in ("localhost", bound.lower()) or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@final
class Web:
    """A port where `answer` is asked, by 32 connections at once: more are closed unanswered.
    `open_paths`: those that answer by whatever name this server is called."""

    def __init__(
        self, answer: Callable[[Request], Answer], open_paths: Collection[str] = ()
    ) -> None:
        self._answer = answer
        self._open_paths = frozenset(open_paths)
        self._connections = 0
        self._bound = ""
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError if the address is not to be had."""
        self._bound = host
        both = any_socket(host, port)
        listen = partial(
            asyncio.start_server, self._serve, limit=_LARGEST_BYTES, backlog=_MOST_CONNECTIONS
        )
        self._server = await (listen(host, port) if both is None else listen(sock=both))
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await stop_listening(self._server)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answered(head).to_bytes())
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so gets nothing
        except asyncio.CancelledError:
            pass  # the server ends, and nobody waits for this: asyncio would report it as an error
        finally:
            self._connections -= 1
            writer.transport.abort()  # what is not read within the time is dropped

    def _answered(self, head: bytes) -> Answer:
        try:
            request = read_request(head)
        except ValueError:
            return text_answer(HTTPStatus.BAD_REQUEST, "not an HTTP request")
        if request.path not in self._open_paths and not is_ours(request.host, self._bound):
            return text_answer(
                HTTPStatus.FORBIDDEN,
                "the Host header must be an address, localhost, or the name by which this listens",
            )
        if request.method != "GET":
            return text_answer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is allowed")
        return self._answer(request)


# A server's port for its operators: a live page, `/health`, `/status`, `/rounds`, `/metrics`.
#
# Plain HTTP and no names or passwords: for loopback, or a network of one's own. Knows nothing of
# sessions; it is given what tells the status.


Ask = Callable[[], RunStatus]
AskRounds = Callable[[int], Sequence[RoundRecord]]


@final
class Operations:
    """The port: `page` is what a browser gets, `ask` gives the status, `rounds` the finished rounds
    after a number."""

    def __init__(self, page: Answer, ask: Ask, rounds: AskRounds) -> None:
        self._page = page
        self._ask = ask
        self._rounds = rounds
        self._registry = CollectorRegistry()
        self._registry.register(StatusMetrics(ask))
        ProcessCollector(registry=self._registry)
        self._web = Web(self._answer, ("/health", "/metrics"))

    async def open(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError if the address is not to be had."""
        return await self._web.open(host, port)

    async def close(self) -> None:
        """Stop listening."""
        await self._web.close()

    def _answer(self, request: Request) -> Answer:
        match request.path:
            case "/":
                return self._page
            case "/health":
                return self._health()
            case "/status":
                return _json(self._ask().written())
            case "/rounds":
                return self._rounds_after(request.query.get("after", "-1"))
            case "/metrics":
                return Answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics_text(self._registry))
            case _:
                known = "/, /health, /status, /rounds?after=N or /metrics"
                return text_answer(HTTPStatus.NOT_FOUND, known)

    def _health(self) -> Answer:
        failure = self._ask().process.failure
        if failure is None:
            return text_answer(HTTPStatus.OK, "ok")
        return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, f"the run has failed: {failure}")

    def _rounds_after(self, number: str) -> Answer:
        try:
            after = int(number)
        except ValueError:
            return text_answer(HTTPStatus.BAD_REQUEST, "after=N is the number of a round")
        return _json([one.written() for one in self._rounds(after)])


def _json(value: object) -> Answer:
    return Answer(HTTPStatus.OK, JSON, f"{json_text(value, indent=1)}\n".encode())
