"""`cutlayer status`: where a server's run stands."""

import argparse
import json
import urllib.error
import urllib.request
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cutlayer.cli.addresses import host_and_port
from cutlayer.errors import RunError
from cutlayer.units import format_bytes

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
        _show(json.loads(text))
    return 0


def _fetch(host: str, port: int) -> str:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # straight there: a server of one's own is not asked for by way of a proxy
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{where}/status", timeout=_TIMEOUT_S) as answer:
            return str(answer.read().decode("utf-8"))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise RunError(
            f"no status from {where}: {error}; is `cutlayer serve` running there, and is this its"
            " --operators address?"
        ) from error


def _show(status: dict[str, Any]) -> None:
    state = "finished" if status["finished"] else f"round {status['round']} of {status['rounds']}"
    if status["lacking"]:
        state += f", past its deadline: {status['lacking']} more adapters and it closes"
    table = Table("device", "name", "", "local steps", "adapter", box=box.SIMPLE, title=state)
    for number, device in enumerate(status["devices"]):
        table.add_row(
            str(number),
            device["name"] or "",
            "connected" if device["connected"] else "away",
            f"{device['local_steps']} of {status['local_steps']}",
            "sent" if device["adapter_sent"] else "",
        )
    console = Console()
    console.print(table)
    for payload, count in sorted(status["payload_bytes"].items()):
        console.print(f"{payload}: {format_bytes(count)}", highlight=False)
