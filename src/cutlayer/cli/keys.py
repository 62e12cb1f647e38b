"""`cutlayer keys`: a run's own certificate authority, and the devices that may join it.

Knows the command's arguments and what it prints; keys and rules are `net.identity`.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from cutlayer.cli.settings import whole_number
from cutlayer.errors import IdentityError, needing

with needing("`cutlayer keys`", "net"):
    from cutlayer.net.identity.run_keys import CertificateStore, init_keys, read_keys

_FOLDER = Path("keys")
_VALID_MIN = 60
_LONGEST_MIN = 366 * 24 * 60
_COLUMNS = ("device", "state", "since or until", "certificate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(arguments: argparse.Namespace) -> int:
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
        _list(read_keys(folder).register(), folder)
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


def _list(register: CertificateStore, folder: Path) -> None:
    rows = _rows(register, time.time())
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(*_COLUMNS, box=box.SIMPLE, caption=f"keys: {folder}", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _rows(register: CertificateStore, now_s: float) -> list[tuple[str, ...]]:
    rows = []
    for one in register.issued:
        revoked = one.revoked_s is not None
        since = one.issued_s if one.revoked_s is None else one.revoked_s
        state = "revoked" if revoked else "joined"
        rows.append((one.name, state, _moment(since), f"{one.serial:x}"))
    for name, invitation in register.invitations.items():
        state = "invited" if now_s <= invitation.expires_s else "invitation expired"
        rows.append((name, state, _moment(invitation.expires_s), ""))
    return sorted(rows)


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
