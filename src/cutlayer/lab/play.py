"""A lab's run: a server and its devices as processes of their own, with the lab's own keys.

Knows what each is told, and reads what it says; the ground that they run on is given.
"""

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.channel.rates import LinkRates
from cutlayer.config.job import Job
from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.lab.ground import Ground
from cutlayer.lab.processes import Process, Processes, cutlayer_command
from cutlayer.lab.samples import write_samples
from cutlayer.net.identity.run_keys import init_keys
from cutlayer.train.heartbeat import Heartbeat
from cutlayer.units import format_seconds, roughly

_LOG = logging.getLogger(__name__)

_INVITED_S = 3600.0
# rates that differ by less, as a part of them, are one
_SAME_RATE = 1e-9


@dataclass(frozen=True, eq=False)
class Play:
    """What is run: a job, each device's link and share of the band, the ground, a folder for keys,
    samples and logs, and where the run's directory is made."""

    job: Job
    links: Sequence[LinkRates]
    shares: Sequence[float]
    ground: Ground
    folder: Path
    output: Path


def play(run: Play, processes: Processes) -> Path:
    """Run it to its end; the run's directory. Raises RunError for a process that fails."""
    (run.folder / "lab.yaml").write_text(config_yaml(served_config(run)), encoding="utf-8")
    for device, link in enumerate(run.links):
        write_samples(_data(run, device), run.job.prepared, device)
        count = len(run.job.prepared.parts[device])
        _LOG.info(f"{_name(device)}: {_rates(link)}, {count} samples")
    keys = init_keys(run.folder / "keys", time.time())
    server = processes.start("server", (*run.ground.server, *_serve(run)))
    port = int(_said(processes, server, r"listening on port (\d+)"))
    directory = Path(_said(processes, server, r"run directory: (.+)"))
    _LOG.info(f"run directory: {directory}")
    for device in range(len(run.links)):
        token = keys.invite(_name(device), _INVITED_S, time.time()).text()
        processes.start(
            _name(device),
            (*run.ground.devices[device], *_join(run, device, port)),
            told=f"{token}\n",
            # in one cache, several devices would fetch one part into one file
            environment={"CUTLAYER_CACHE": str(run.folder / _name(device) / "cache")},
        )
    following = _Following(directory / "rounds.jsonl", server, run.job.config.training.rounds)
    with Heartbeat(lambda: following.stage):
        processes.wait_until(following.look)
        processes.wait()
    return directory


def served_config(run: Play) -> Config:
    """The server's: the devices in their order, and rates to pace to where the links have none.

    Raises ConfigError for links that pacing cannot stand in for.
    """
    up, down = None, None
    if not run.ground.shaped:
        up = _band("uplink", run, [link.uplink_bit_per_s for link in run.links])
        down = _band("downlink", run, [link.downlink_bit_per_s for link in run.links])
    names = tuple(_name(device) for device in range(len(run.links)))
    own = {"devices": names, "uplink_bit_s": up, "downlink_bit_s": down}
    net = run.job.config.net.model_copy(update=own)
    return run.job.config.model_copy(update={"net": net})


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that may be written to meanwhile."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _band(way: str, run: Play, rates_bit_s: Sequence[float]) -> float:
    """The one rate of which the devices' rates are their shares."""
    bands = [rate / share for rate, share in zip(rates_bit_s, run.shares, strict=True)]
    if max(bands) - min(bands) > _SAME_RATE * max(bands):
        raise ConfigError(
            f"on loopback devices keep to shares of one rate, but the {way} rates of these differ"
            " by more than their shares: give all the same SNR, or run the lab"
            " where it has namespaces"
        )
    return bands[0]


def _serve(run: Play) -> tuple[str, ...]:
    doors = ("--listen", f"{run.ground.listen}:0", "--operators", "127.0.0.1:0")
    places = ("--keys", str(run.folder / "keys"), "--output", str(run.output))
    return cutlayer_command("serve", str(run.folder / "lab.yaml"), *doors, *places)


def _join(run: Play, device: int, port: int) -> tuple[str, ...]:
    identity = ("--identity", str(run.folder / _name(device) / "identity"), "--token", "-")
    own = ("--data", str(_data(run, device)), "--threads", "1")
    return cutlayer_command("join", f"{run.ground.hosts[device]}:{port}", *own, *identity)


def _name(device: int) -> str:
    """A device's, and its folder's."""
    return f"device-{device}"


def _data(run: Play, device: int) -> Path:
    return run.folder / _name(device) / "data"


def _said(processes: Processes, process: Process, pattern: str) -> str:
    """The first group of `pattern` in what a process logs, once it does."""
    found: list[str] = []

    def look() -> bool:
        matches = (re.fullmatch(pattern, message) for message in process.messages())
        found.extend(match[1] for match in matches if match is not None)
        return bool(found)

    processes.wait_until(look)
    return found[0]


class _Following:
    """Tells of each round once."""

    def __init__(self, path: Path, server: Process, rounds: int) -> None:
        self._path = path
        self._server = server
        self._rounds = rounds
        self._start_s = time.monotonic()
        self._told = 0

    def look(self) -> bool:
        """Tell what is new; whether the server has ended."""
        ended = self._server.popen.poll() is not None
        for record in whole_lines(self._path)[self._told + 1 :]:
            self._told = record["round"]
            delay = format_seconds(record["delay_s"])
            _LOG.info(f"round {self._told} of {self._rounds}: measured round {delay}")
        return ended

    @property
    def stage(self) -> str:
        """`33 %: round 3 of 6 under way; 1 min 02 s so far, about 2 min 04 s left`."""
        part, gone_s = self._told / self._rounds, time.monotonic() - self._start_s
        gone = f"{format_seconds(gone_s)} so far"
        if part == 1:
            return f"rounds done, waiting for server and devices to end; {gone}"
        left = f", about {roughly(gone_s * (1 - part) / part)} left" if part else ""
        number = f"round {self._told + 1} of {self._rounds} under way"
        return f"{100 * part:.0f} %: {number}; {gone}{left}"


def _rates(link: LinkRates) -> str:
    up, down = (rate / 1e6 for rate in (link.uplink_bit_per_s, link.downlink_bit_per_s))
    return f"{up:.2f} Mbit/s up, {down:.2f} Mbit/s down"
