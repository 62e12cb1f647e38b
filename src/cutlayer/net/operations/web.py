"""As much of HTTP as operators need: a GET comes, one answer goes, and the connection ends.

Knows no content, and neither TLS nor passwords. Who asks by a name that is not this server's is
refused: a page from elsewhere can make its own name point here (DNS rebinding), and would
otherwise read the answers as its own.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import final
from urllib.parse import parse_qsl, urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client import generate_latest as metrics_text

from cutlayer.net.operations.metrics import StatusMetrics
from cutlayer.net.operations.status import RunStatus
from cutlayer.net.wire.listener import any_socket
from cutlayer.train.files import json_text
from cutlayer.train.records import RoundRecord

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

_TIMEOUT_S = 5.0
_LARGEST_BYTES = 16 * 1024
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
    """A port where `answer` is asked."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._bound = ""
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; the port. Raises OSError if the address is not to be had."""
        self._bound = host
        both = any_socket(host, port)
        self._server = await (
            asyncio.start_server(self._serve, host, port, limit=_LARGEST_BYTES)
            if both is None
            else asyncio.start_server(self._serve, sock=both, limit=_LARGEST_BYTES)
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answered(head).to_bytes())
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so gets nothing
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answered(self, head: bytes) -> Answer:
        try:
            request = read_request(head)
        except ValueError:
            return text_answer(HTTPStatus.BAD_REQUEST, "not an HTTP request")
        if not is_ours(request.host, self._bound):
            return text_answer(
                HTTPStatus.FORBIDDEN,
                "the Host header must be an address, localhost, or the name given as --operators",
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
        self._web = Web(self._answer)

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
