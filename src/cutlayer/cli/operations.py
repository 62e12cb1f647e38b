"""`cutlayer keys` and `status`, for who operates a run's server: its own certificate authority, and
the devices that may join; where the run stands.

Knows the commands' arguments and what they print; keys and rules are `net.identity`'s.
"""

import argparse
import math
import sys
import time
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cutlayer.cli.settings import host_and_port, whole_number
from cutlayer.errors import IdentityError, RunError, needing
from cutlayer.training.records import RoundRecord, TrainedRound, parse
from cutlayer.units import format_bytes, format_seconds

with needing("`cutlayer keys` or `status`", "net"):
    from cutlayer.net.identity.run_keys import CertificateStore, init_keys, read_keys
    from cutlayer.net.operations.status import DeviceStatus, RunStatus

# `cutlayer keys`.


_FOLDER = Path("keys")
_VALID_MIN = 60
_LONGEST_MIN = 366 * 24 * 60
_COLUMNS = ("device", "state", "since or until", "certificate")


def keys_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer keys`."""
    parser.add_argument(
        "action",
        choices=("init", "invite", "revoke", "list"),
        nargs="?",
        default="list",
        help="init: make a run's keys; invite: print a device's token, valid for one use;"
        " revoke: exclude a device, and disconnect it at once; list: who may join (default)",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the device's")
    parser.add_argument(
        "--keys", type=Path, default=_FOLDER, metavar="DIR", help=f"the run's keys ({_FOLDER})"
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        default=_VALID_MIN,
        metavar="N",
        help=f"how long an invitation is valid ({_VALID_MIN})",
    )


def run_keys(arguments: argparse.Namespace) -> int:
    """Carry the command out. Raises IdentityError, OSError."""
    folder: Path = arguments.keys
    if arguments.action == "init":
        init_keys(folder, time.time())
        print(folder)
    elif arguments.action == "invite":
        _invite(folder, _named(arguments), arguments.minutes)
    elif arguments.action == "revoke":
        name = _named(arguments)
        revoked = read_keys(folder).revoke(name, time.time())
        print(f"{name}: {'revoked' if revoked else 'its invitation is void'}")
    else:
        _list(read_keys(folder).certificates(), folder)
    return 0


def _minutes(text: str) -> int:
    """What a calendar can say the end of, and who invites may live to see."""
    minutes = whole_number(text)
    if minutes > _LONGEST_MIN:
        raise argparse.ArgumentTypeError(
            f"{text!r} is beyond a year: an invitation is valid for {_LONGEST_MIN} minutes at most"
        )
    return minutes


def _named(arguments: argparse.Namespace) -> str:
    if arguments.name is None:
        raise IdentityError(f"keys {arguments.action}: which device? give its name")
    return str(arguments.name)


def _invite(folder: Path, name: str, minutes: int) -> None:
    """The token alone on standard output, to be sent by a way that others do not read."""
    now_s = time.time()
    token = read_keys(folder).invite(name, 60.0 * minutes, now_s)
    print(token.text())
    until = _moment(now_s + 60.0 * minutes)
    print(f"for {name}, once, until {until}; whoever has it can join in its name", file=sys.stderr)


def _list(certificates: CertificateStore, folder: Path) -> None:
    rows = _rows(certificates, time.time())
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(*_COLUMNS, box=box.SIMPLE, caption=f"keys: {folder}", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _rows(certificates: CertificateStore, now_s: float) -> list[tuple[str, ...]]:
    rows = []
    for one in certificates.issued:
        revoked = one.revoked_s is not None
        since = one.issued_s if one.revoked_s is None else one.revoked_s
        state = "revoked" if revoked else "joined"
        rows.append((one.name, state, _moment(since), f"{one.serial:x}"))
    for name, invitation in certificates.invitations.items():
        state = "invited" if now_s <= invitation.expires_s else "invitation expired"
        rows.append((name, state, _moment(invitation.expires_s), ""))
    return sorted(rows)


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


# `cutlayer status`.


_TIMEOUT_S = 10.0


def status_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_status(arguments: argparse.Namespace) -> int:
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
    if status.pass_mini_batches is not None:
        console.print(f"server: {status.pass_mini_batches:.3g} mini-batches a pass")
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
    if last.score is None:
        return f"after round {last.round}: not evaluated{took}"
    score = f"{last.score.value:.4g}" if math.isfinite(last.score.value) else "not finite"
    return f"after round {last.round}: {last.score.measure} {score}{took}"
