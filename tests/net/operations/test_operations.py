"""What a server's operators are told, and what others who ask are."""

import asyncio
import json
import math
from contextlib import suppress
from http import HTTPStatus

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cutlayer.cli.main import main
from cutlayer.net.operations.status import RunStatus
from cutlayer.net.operations.web import Answer, Operations
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.training.records import RoundRecord, TrainedRound, parse
from cutlayer.version import __version__
from net import watched

PAGE = Answer(HTTPStatus.OK, "text/html; charset=utf-8", b"<p>page</p>", "default-src 'self'")
RUNNING, HISTORY = watched.running(7)


def operations(status: RunStatus = RUNNING) -> Operations:
    def after(number: int) -> list[RoundRecord]:
        return [one for one in HISTORY if one.round > number]

    return Operations(PAGE, lambda: status, after)


async def ask(request: bytes, status: RunStatus = RUNNING) -> bytes:
    page = operations(status)
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


def get(path: str, status: RunStatus = RUNNING, host: str = "127.0.0.1") -> tuple[list[str], str]:
    """The head's lines and the body."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    head, _, body = asyncio.run(ask(request, status)).decode().partition("\r\n\r\n")
    return head.split("\r\n"), body


def metrics(status: RunStatus) -> dict[str, Metric]:
    """The families, as Prometheus reads them."""
    (line, *_), body = get("/metrics", status)
    assert line == "HTTP/1.1 200 OK"
    return {family.name: family for family in text_string_to_metric_families(body)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """Of the one sample that has these labels."""
    samples = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    (found,) = samples
    return found


def test_health() -> None:
    (line, *_), body = get("/health")
    assert (line, body) == ("HTTP/1.1 200 OK", "ok\n")
    failed = RUNNING.process.model_copy(update={"failure": "cannot write runs: no space left"})
    (line, *_), body = get("/health", RUNNING.model_copy(update={"process": failed}))
    assert line == "HTTP/1.1 503 Service Unavailable"
    assert "cannot write runs: no space left" in body


def test_status_and_rounds() -> None:
    (line, *head), body = get("/status")
    assert line == "HTTP/1.1 200 OK" and "Content-Type: application/json" in head
    assert parse(RunStatus, "here", body) == RUNNING
    _, body = get("/rounds?after=5")
    assert [one["round"] for one in json.loads(body)] == [6, 7]
    _, body = get("/rounds")
    assert [one["round"] for one in json.loads(body)] == list(range(8))
    (line, *_), _ = get("/rounds?after=x")
    assert line == "HTTP/1.1 400 Bad Request"


def test_the_page_comes_with_its_policy() -> None:
    (line, *head), body = get("/")
    assert line == "HTTP/1.1 200 OK" and body == PAGE.body.decode()
    assert f"Content-Security-Policy: {PAGE.policy}" in head


@pytest.mark.parametrize("path", ["/", "/status", "/rounds", "/metrics", "/health", "/other"])
def test_no_answer_is_kept_guessed_at_or_embedded(path: str) -> None:
    head, _ = get(path)
    assert "Cache-Control: no-store" in head
    assert "X-Content-Type-Options: nosniff" in head
    assert any(field.startswith("Content-Security-Policy: ") for field in head)
    assert not any(field.startswith("Access-Control") for field in head)


@pytest.mark.parametrize("path", ["/", "/status", "/rounds", "/other"])
def test_who_asks_by_another_name_is_refused(path: str) -> None:
    """DNS rebinding: a stranger's name that points here, in an operator's browser."""
    (line, *_), body = get(path, host="evil.example:7701")
    assert line == "HTTP/1.1 403 Forbidden"
    assert "pi-1" not in body


@pytest.mark.parametrize("path", ["/metrics", "/health"])
def test_a_scraper_may_call_it_as_its_network_does(path: str) -> None:
    (line, *_), _ = get(path, host="cutlayer:7701")
    assert line == "HTTP/1.1 200 OK"


def test_more_connections_than_it_takes_are_closed_and_its_own_go_on() -> None:
    async def go() -> None:
        page = operations()
        port = await page.open(LOOPBACK, 0)
        silent = [await asyncio.open_connection(LOOPBACK, port) for _ in range(32)]
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        first, writer = silent[0]
        writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        assert b"200 OK" in await first.read()
        for _, one in silent:
            one.close()
        await page.close()

    asyncio.run(go())


def test_metrics_are_the_status() -> None:
    families = metrics(RUNNING)
    last = HISTORY[-1]
    assert isinstance(last, TrainedRound)
    assert value(families, "cutlayer_build_info", version=__version__) == 1
    assert value(families, "cutlayer_round") == 8
    assert value(families, "cutlayer_rounds") == 20
    assert value(families, "cutlayer_round_elapsed_seconds") == 21
    assert value(families, "cutlayer_round_deadline_seconds") == 900
    assert value(families, "cutlayer_quorum_devices") == 2
    assert value(families, "cutlayer_finished") == value(families, "cutlayer_failed") == 0
    assert value(families, "cutlayer_devices") == 3
    assert value(families, "cutlayer_devices_connected") == 2
    assert value(families, "cutlayer_devices_done") == 1
    assert value(families, "cutlayer_device_connected", device="pi-2") == 0
    assert value(families, "cutlayer_device_local_steps", device="pi-1") == 5
    refused = "cutlayer_device_refused_adapters_total"
    assert [value(families, refused, device=f"pi-{n}") for n in (1, 2)] == [0, 1]
    up = value(families, "cutlayer_device_uplink_bytes_total", device="pi-1")
    assert up == RUNNING.devices[0].uplink_bytes
    sent = value(families, "cutlayer_payload_bytes_total", payload="activation")
    assert sent == RUNNING.payload_bytes["activation"]
    assert value(families, "cutlayer_refused_connections_total") == 3
    assert value(families, "cutlayer_pass_mini_batches_bucket", le="1.0") == 20
    assert value(families, "cutlayer_pass_mini_batches_bucket", le="2.0") == 20
    assert value(families, "cutlayer_pass_mini_batches_bucket", le="4.0") == 60
    assert value(families, "cutlayer_pass_mini_batches_bucket", le="+Inf") == 60
    assert value(families, "cutlayer_pass_mini_batches_sum") == 140
    assert value(families, "cutlayer_last_round") == 7
    assert value(families, "cutlayer_last_round_accuracy_ratio") == last.accuracy
    assert value(families, "cutlayer_last_round_seconds") == last.delay_s
    for phase, seconds in last.delay_by_phase_s.items():
        assert value(families, "cutlayer_last_round_phase_seconds", phase=phase) == seconds
    assert value(families, "process_resident_memory_bytes") > 0


def test_metrics_have_names_by_the_rules() -> None:
    """Counters alone end in `_total`; help for all; names in the unit's plural."""
    for family in metrics(RUNNING).values():
        assert family.documentation
        totals = [sample.name.endswith("_total") for sample in family.samples]
        assert all(totals) if family.type == "counter" else not any(totals)
        assert not family.name.endswith(("_s", "_ms", "_mib", "_percent", "_second", "_byte"))


def test_metrics_leave_out_what_nobody_measured() -> None:
    families = metrics(watched.waiting()[0])
    assert not any(name.startswith("cutlayer_last_round") for name in families)
    first = HISTORY[0].model_copy(update={"eval_loss": math.nan})
    families = metrics(RUNNING.model_copy(update={"last": first, "deadline_s": None}))
    assert "cutlayer_last_round_accuracy_ratio" in families
    assert "cutlayer_last_round_eval_loss" not in families
    assert "cutlayer_last_round_seconds" not in families
    assert "cutlayer_round_deadline_seconds" not in families


def test_a_hostile_name_is_a_label_and_no_more() -> None:
    name = 'a"}\ncutlayer_round 99'
    device = RUNNING.devices[0].model_copy(update={"name": name})
    families = metrics(RUNNING.model_copy(update={"devices": (device,)}))
    assert value(families, "cutlayer_device_connected", device=name) == 1
    assert value(families, "cutlayer_round") == 8


def test_other_pages_and_methods() -> None:
    (line, *_), body = get("/favicon.ico")
    assert line == "HTTP/1.1 404 Not Found" and "/metrics" in body
    post = b"POST /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert asyncio.run(ask(post)).startswith(b"HTTP/1.1 405")
    assert asyncio.run(ask(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("request_bytes", [b"", b"GET /health", b"\xff" * 100_000])
def test_what_is_no_request_gets_nothing(request_bytes: bytes) -> None:
    assert asyncio.run(ask(request_bytes)) == b""


def shown(status: RunStatus, *words: str) -> int:
    """What `cutlayer status ADDRESS` ends with; it is asked by name, which loopback is not."""

    async def play() -> int:
        page = operations(status)
        port = await page.open(LOOPBACK, 0)
        try:
            return await asyncio.to_thread(main, ["status", f"localhost:{port}", *words])
        finally:
            await page.close()

    return asyncio.run(play())


def test_the_command_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(RUNNING) == 0
    text = capsys.readouterr().out
    assert "dinov2-small-fashion-mnist-001: round 8 of 20" in text
    assert "after round 7: accuracy 0.7327, in 49.3 s" in text
    assert "pi-1" in text and "5 of 10" in text and "away for 47.0 s" in text
    assert shown(RUNNING, "--json") == 0
    assert json.loads(capsys.readouterr().out)["devices"][0]["name"] == "pi-1"


def test_the_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(watched.waiting()[0]) == 0
    assert "round 1 of 20" in capsys.readouterr().out
    assert shown(watched.ended()[0]) == 0
    assert "finished" in capsys.readouterr().out
    failed = RUNNING.process.model_copy(update={"failure": "[red]full"})
    assert shown(RUNNING.model_copy(update={"process": failed})) == 0
    assert "failed: [red]full" in capsys.readouterr().out


def test_the_command_says_what_a_round_past_its_deadline_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert shown(RUNNING.model_copy(update={"missing_adapters": 2})) == 0
    assert "for 21.0 s, 2 adapters short" in capsys.readouterr().out


def test_the_command_says_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    async def closed() -> int:
        page = operations()
        port = await page.open(LOOPBACK, 0)
        await page.close()
        return port

    assert main(["status", f"{LOOPBACK}:{asyncio.run(closed())}"]) == 2
    assert "is `cutlayer serve` running there" in capsys.readouterr().err
