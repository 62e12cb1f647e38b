"""A server's port for its operators: a live page, `/health`, `/status`, `/rounds`, `/metrics`.

Plain HTTP and no names or passwords: for loopback, or a network of one's own. Knows nothing of
sessions; it is given what tells the status.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client import generate_latest as metrics_text

from cutlayer.net.metrics import StatusMetrics
from cutlayer.net.status import Status
from cutlayer.net.web import JSON, Answer, Request, Web, text_answer
from cutlayer.train.records import RoundRecord
from cutlayer.train.round_log import json_text

Ask = Callable[[], Status]
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
