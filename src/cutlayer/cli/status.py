"""`cutlayer status`: where a server's run stands."""

import argparse
import math
import urllib.request
from http.client import HTTPException
from urllib.error import URLError

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cutlayer.cli.settings import host_and_port
from cutlayer.errors import RunError
from cutlayer.net.operations.status import DeviceStatus, RunStatus
from cutlayer.training.records import RoundRecord, TrainedRound, parse
from cutlayer.units import format_bytes, format_seconds

_TIMEOUT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the server answers its operators."""
    parser.add_argument(
        "address",
        nargs="?",
        type=host_and_port,
        default=("127.0.0.1", 7701),
        metavar="HOST:PORT",
        help="of `cutlayer serve --operators` (127.0.0.1:7701)",
    )
    parser.add_argument("--json", action="store_true", help="as the server says it")


def run(arguments: argparse.Namespace) -> int:
    """Ask, and print. Raises RunError if nobody answers."""
    text = _fetch(*arguments.address)
    if arguments.json:
        print(text, end="")
    else:
        _show(parse(RunStatus, "the status", text))
    return 0


def _fetch(host: str, port: int) -> str:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # straight there: a server of one's own is not asked for by way of a proxy
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        # we may know it by a name that it does not know, and it answers to its own alone
        request = urllib.request.Request(f"http://{where}/status", headers={"Host": "localhost"})
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            text = str(answer.read().decode("utf-8"))
        parse(RunStatus, "its answer", text)
        return text
    except (OSError, HTTPException, ValueError, RunError) as error:
        raise RunError(
            f"no status from {where}: {_why(error)}; is `cutlayer serve` running there, and is"
            " this its --operators address?"
        ) from error


def _why(error: Exception) -> str:
    """`connection refused`: what the system says, without the library's wrapping."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return str(cause)


def _show(status: RunStatus) -> None:
    table = Table(
        "device", "name", "", "local steps", "adapter", "up", "down", box=box.SIMPLE, pad_edge=False
    )
    for number, device in enumerate(status.devices):
        table.add_row(
            str(number),
            escape(device.name or ""),
            _presence(device),
            f"{device.local_steps} of {status.local_steps}",
            "sent" if device.adapter_sent else "",
            format_bytes(device.uplink_bytes),
            format_bytes(device.downlink_bytes),
        )
    console = Console(highlight=False)
    console.print(f"{status.run}: {_state(status)}", markup=False)
    if status.last is not None:
        console.print(_last(status.last), markup=False)
    console.print(table)
    for payload, count in sorted(status.payload_bytes.items()):
        console.print(f"{payload}: {format_bytes(count)}")


def _state(status: RunStatus) -> str:
    if status.process.failure is not None:
        return f"failed: {status.process.failure}"
    if status.finished:
        return "finished"
    late = f", {status.missing_adapters} adapters short" if status.missing_adapters else ""
    running = f"for {format_seconds(status.round_s)}"
    return f"round {status.round} of {status.rounds}, {running}{late}"


def _presence(device: DeviceStatus) -> str:
    if device.connected or device.away_s is None:
        return "connected" if device.connected else "away"
    return f"away for {format_seconds(device.away_s)}"


def _last(last: RoundRecord) -> str:
    """What the last round came to, and how long it took."""
    took = f", in {format_seconds(last.delay_s)}" if isinstance(last, TrainedRound) else ""
    score = f"{last.score.value:.4g}" if math.isfinite(last.score.value) else "not finite"
    return f"after round {last.round}: {last.score.measure} {score}{took}"
