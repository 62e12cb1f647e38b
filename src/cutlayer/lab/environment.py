"""Where a lab's processes run: in namespaces with shaped links, or on loopback.

Runs `ip` and `tc`. Whatever happens, the namespaces are deleted, with every process in them; those
of a lab that was killed, by the next one, and so is a lab's folder.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cutlayer.channel.rates import LinkRates
from cutlayer.errors import RunError
from cutlayer.lab.network import (
    Command,
    LabNetwork,
    deleting_namespace,
    in_namespace,
    lab_name,
    orphaned_names,
)

_LOG = logging.getLogger(__name__)

# runs a command and gives what it prints; raises NoNamespacesError
RunCommand = Callable[[Command], str]

_TOOLS = ("ip", "tc")
# where they are, whatever the user's PATH says
_SYSTEM_PATH = os.pathsep.join(("/usr/sbin", "/sbin"))
_COMMAND_S = 20.0
_ANY_ADDRESS = "0.0.0.0"
_LOOPBACK = "127.0.0.1"


class NoNamespacesError(RunError):
    """Network namespaces are not to be had here; says why."""


@dataclass(frozen=True)
class Environment:
    """What goes before the server's command and each device's; where the server listens, and where
    each device finds it. `shaped`: the links keep to the channel's rates, so that the processes
    need not. `title`: all that in a line."""

    title: str
    server: Command
    devices: tuple[Command, ...]
    listen: str
    hosts: tuple[str, ...]
    shaped: bool


def loopback(devices: int, why: str) -> Environment:
    """No links: the processes pace themselves."""
    title = f"on loopback, where the processes pace themselves: {why}"
    hosts = (_LOOPBACK,) * devices
    return Environment(title, (), ((),) * devices, _LOOPBACK, hosts, shaped=False)


@contextmanager
def network_namespaces(links: Sequence[LinkRates]) -> Iterator[Environment]:
    """A namespace for the server and each device, deleted at the end.

    Raises NoNamespacesError if they cannot be made.
    """
    why = why_no_namespaces(sys.platform, os.geteuid(), _which)
    if why is not None:
        raise NoNamespacesError(why)
    left = delete_orphans(run_command, is_another_process)
    if left:
        _LOG.info(f"deleted what a lab that was killed has left: {', '.join(left)}")
    network = LabNetwork(os.getpid(), links)
    try:
        for words in network.building():
            run_command(words)
        yield Environment(
            title="over links shaped by tc, with a network namespace for each device",
            server=_command(in_namespace(network.server)),
            devices=tuple(_command(in_namespace(network.device(n))) for n in range(len(links))),
            listen=_ANY_ADDRESS,
            hosts=tuple(network.server_host(n) for n in range(len(links))),
            shaped=True,
        )
    finally:
        _delete(network.namespaces(), run_command)


def why_no_namespaces(platform: str, user: int, which: Callable[[str], str | None]) -> str | None:
    """Why this machine, or this user, has no namespaces; None: nothing is known against them."""
    if platform != "linux":
        return f"they are Linux's, this is {platform}"
    if user != 0:
        return "only root may make them"
    absent = [tool for tool in _TOOLS if which(tool) is None]
    return f"{' and '.join(absent)} of iproute2 not found" if absent else None


def delete_orphans(run: RunCommand, alive: Callable[[int], bool]) -> list[str]:
    """Delete the namespaces that labs which were killed have left; their names. Raises what `run`
    does."""
    listed = run(("ip", "netns", "list")).splitlines()
    names = orphaned_names((line.split()[0] for line in listed if line.strip()), alive)
    _delete(names, run)
    return names


def run_command(words: Command) -> str:
    """What a command prints. Raises NoNamespacesError, with what it says, if it fails."""
    try:
        done = subprocess.run(
            _command(words), capture_output=True, text=True, check=False, timeout=_COMMAND_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNamespacesError(f"`{' '.join(words)}`: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"code {done.returncode}"
        raise NoNamespacesError(f"`{' '.join(words)}` failed: {said}")
    return done.stdout


def _delete(names: Sequence[str], run: RunCommand) -> None:
    """Each of them that there is, and the processes in it first: they would keep its links."""
    for name in names:
        # one that was never made
        with suppress(NoNamespacesError):
            for process in run(("ip", "netns", "pids", name)).split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            run(deleting_namespace(name))


def _command(words: Command) -> Command:
    """With the tool's path."""
    return (_which(words[0]) or words[0], *words[1:])


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=os.pathsep.join((os.environ.get("PATH", ""), _SYSTEM_PATH)))


def is_another_process(process: int) -> bool:
    """Whether that is another process, and alive: what has this one's number already, another one
    with it has left."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def lab_folder() -> Iterator[Path]:
    """A folder of this lab's own, for keys, samples and logs, that is deleted at the end; those of
    labs that were killed are deleted first."""
    left = delete_folders(Path(tempfile.gettempdir()), is_another_process)
    if left:
        _LOG.info(f"deleted what a lab that was killed has left: {', '.join(left)}")
    with tempfile.TemporaryDirectory(prefix=lab_name(os.getpid(), "")) as folder:
        yield Path(folder)


def delete_folders(root: Path, alive: Callable[[int], bool]) -> list[str]:
    """Delete the folders that labs which were killed have left in `root`; their names."""
    names = orphaned_names((path.name for path in root.iterdir()), alive)
    for name in names:
        # another user's stays
        shutil.rmtree(root / name, ignore_errors=True)
    return [name for name in names if not (root / name).exists()]
