"""A lab's run: a server and its devices as processes of their own, with the lab's own keys.

They are started, watched, and stopped at the end. Knows what each is told, and reads what it says;
the environment that they run in is given.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from cutlayer.channel.rates import LinkRates
from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.data.partition import PreparedData
from cutlayer.data.records import write_json_lines
from cutlayer.data.samples import DataSet, write_arrays
from cutlayer.errors import ConfigError, DataError, RunError, reason
from cutlayer.jobs.prepare import Job
from cutlayer.lab.environment import Environment
from cutlayer.logs import Heartbeat
from cutlayer.net.identity.run_keys import init_keys
from cutlayer.units import format_seconds, roughly

_LOG = logging.getLogger(__name__)

_TICK_S = 0.2
_STOP_S = 10.0
_END_S = 60.0
_INVITED_S = 3600.0
# rates that differ by less, as a part of them, are one
_SAME_RATE = 1e-9
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TABLE = "train.jsonl"
# nine times the weight of other work on the machine
_NICE = -10


def cutlayer_command(*words: str) -> tuple[str, ...]:
    """`cutlayer WORDS`, by this very interpreter."""
    return (sys.executable, "-m", "cutlayer", *words)


@dataclass(frozen=True, eq=False)
class LabProcess:
    """A process whose standard error goes to `log`."""

    name: str
    popen: subprocess.Popen[str]
    log: Path

    def messages(self) -> list[str]:
        """What it has logged so far: of JSON lines the message, of others the line."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [_message(line) for line in text.splitlines() if line.strip()]


@final
class LabProcesses:
    """Processes with logs in `folder` and one OpenMP thread each; as a context, stopped at its
    end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[LabProcess] = []

    def __enter__(self) -> "LabProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def start(
        self,
        name: str,
        words: Sequence[str],
        *,
        told: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> LabProcess:
        """Start one; `told`: what it reads on standard input. Raises RunError if it cannot be."""
        log = self._folder / f"{name}.log"
        try:
            with log.open("w", encoding="utf-8") as file:
                popen = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
                    text=True,
                    # an interrupt at the terminal is the lab's to hear, and to stop this in order
                    start_new_session=True,
                )
        except OSError as error:
            raise RunError(f"{name} cannot be started: {reason(error)}") from error
        process = LabProcess(name, popen, log)
        self._started.append(process)
        take_precedence(popen.pid)
        assert popen.stdin is not None
        # one that has ended already is found when it is looked at
        with suppress(BrokenPipeError), popen.stdin as pipe:
            pipe.write(told)
        return process

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Look now and then. Raises RunError as soon as a process has failed."""
        while not done():
            self._check()
            time.sleep(_TICK_S)

    def wait(self) -> None:
        """Until all have ended. Raises RunError for one that fails, or is still there long after
        the first has ended."""
        first_s: float | None = None
        while left := [one.name for one in self._started if one.popen.poll() is None]:
            self._check()
            if first_s is None and len(left) < len(self._started):
                first_s = time.monotonic()
            if first_s is not None and time.monotonic() - first_s > _END_S:
                raise RunError(f"the run has ended, and {', '.join(left)} have not")
            time.sleep(_TICK_S)
        self._check()

    def _check(self) -> None:
        for one in self._started:
            code = one.popen.poll()
            if code:
                last = (one.messages() or ["it said nothing"])[-1]
                raise RunError(f"{one.name} ended with code {code}: {last}")

    def _stop(self) -> None:
        """Ask all that are left to stop, then make them."""
        left = [one for one in self._started if one.popen.poll() is None]
        for one in left:
            one.popen.terminate()
        until_s = time.monotonic() + _STOP_S
        for one in left:
            try:
                one.popen.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.popen.kill()
                one.popen.wait()


def take_precedence(process: int) -> bool:
    """Let a process that has just begun, and leads its session, come before other work on the
    machine; whether it does. Only root may.

    Other work comes and goes, and no round tells the next one of it.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, process, _NICE)
        # where Linux shares cores between sessions (sched(7), autogroup), theirs is what counts
        with suppress(FileNotFoundError):
            Path(f"/proc/{process}/autogroup").write_text(f"{_NICE}\n", encoding="ascii")
    except OSError:
        return False
    return True


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line


@final
class StopSignals:
    """As a context: hears SIGINT, SIGTERM and SIGHUP, unless they are ignored already.

    They end what may be ended, and never what cleans up.
    To be entered in the main thread, before all that has to be cleaned up.
    """

    def __init__(self) -> None:
        self._heard = False
        self._heeded = False
        self._before = [
            (one, handler)
            for one in _SIGNALS
            # who started this may have had reason to ignore one
            if (handler := signal.getsignal(one)) is not signal.SIG_IGN
        ]

    def __enter__(self) -> "StopSignals":
        for number, _ in self._before:
            signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within this a signal raises KeyboardInterrupt, once; one that came before it, too."""
        self._heeded = True
        try:
            if self._heard:
                raise KeyboardInterrupt
            yield
        finally:
            self._heeded = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        if self._heeded:
            self._heeded = False
            raise KeyboardInterrupt


@dataclass(frozen=True, eq=False)
class LabSetup:
    """What is run: a job, each device's link and bandwidth share, the environment, a folder for
    keys, samples and logs, and where the run's directory is made."""

    job: Job
    links: Sequence[LinkRates]
    shares: Sequence[float]
    environment: Environment
    folder: Path
    output: Path


def run_processes(run: LabSetup, processes: LabProcesses) -> Path:
    """Run it to its end; the run's directory. Raises RunError for a process that fails."""
    (run.folder / "lab.yaml").write_text(config_yaml(served_config(run)), encoding="utf-8")
    for device, link in enumerate(run.links):
        write_device_samples(_data(run, device), run.job.prepared, device)
        count = len(run.job.prepared.parts[device])
        _LOG.info(f"{_name(device)}: {_rates(link)}, {count} samples")
    keys = init_keys(run.folder / "keys", time.time())
    server = processes.start("server", (*run.environment.server, *_serve(run)))
    port = int(_said(processes, server, r"listening on port (\d+)"))
    directory = Path(_said(processes, server, r"run directory: (.+)"))
    _LOG.info(f"run directory: {directory}")
    for device in range(len(run.links)):
        token = keys.invite(_name(device), _INVITED_S, time.time()).text()
        processes.start(
            _name(device),
            (*run.environment.devices[device], *join_command(run, device, port)),
            told=f"{token}\n",
            # in one cache, several devices would fetch one part into one file
            variables={"CUTLAYER_CACHE": str(run.folder / _name(device) / "cache")},
        )
    following = _Following(directory / "rounds.jsonl", server, run.job.config.training.rounds)
    with Heartbeat(lambda: following.stage):
        processes.wait_until(following.look)
        processes.wait()
    return directory


def served_config(run: LabSetup) -> Config:
    """The server's: the devices in their order, and rates to pace to where the links have none.

    Raises ConfigError for links that pacing cannot stand in for.
    """
    up, down = None, None
    if not run.environment.shaped:
        up = _common_rate("uplink", run, [link.uplink_bit_per_s for link in run.links])
        down = _common_rate("downlink", run, [link.downlink_bit_per_s for link in run.links])
    names = tuple(_name(device) for device in range(len(run.links)))
    own = {"devices": names, "uplink_bit_s": up, "downlink_bit_s": down}
    net = run.job.config.net.model_copy(update=own)
    return run.job.config.model_copy(update={"net": net})


def whole_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file that may be written to meanwhile."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _common_rate(way: str, run: LabSetup, rates_bit_s: Sequence[float]) -> float:
    """The one rate of which the devices' rates are their shares."""
    rates = [rate / share for rate, share in zip(rates_bit_s, run.shares, strict=True)]
    if max(rates) - min(rates) > _SAME_RATE * max(rates):
        raise ConfigError(
            f"on loopback devices keep to shares of one rate, but the {way} rates of these differ"
            " by more than their shares: give all the same SNR, or run the lab"
            " where it has namespaces"
        )
    return rates[0]


def _serve(run: LabSetup) -> tuple[str, ...]:
    addresses = ("--listen", f"{run.environment.listen}:0", "--operators", "127.0.0.1:0")
    places = ("--keys", str(run.folder / "keys"), "--output", str(run.output))
    return cutlayer_command("serve", str(run.folder / "lab.yaml"), *addresses, *places)


def join_command(run: LabSetup, device: int, port: int) -> tuple[str, ...]:
    """A device's, which joins a server on that port."""
    identity = ("--identity", str(run.folder / _name(device) / "identity"), "--token", "-")
    own = ("--data", str(_data(run, device)), "--threads", "1")
    placed = ("--device", run.job.config.devices.device)
    return cutlayer_command(
        "join", f"{run.environment.hosts[device]}:{port}", *own, *placed, *identity
    )


def _name(device: int) -> str:
    """A device's, and its folder's."""
    return f"device-{device}"


def _data(run: LabSetup, device: int) -> Path:
    return run.folder / _name(device) / "data"


def _said(processes: LabProcesses, process: LabProcess, pattern: str) -> str:
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

    def __init__(self, path: Path, server: LabProcess, rounds: int) -> None:
        self._path = path
        self._server = server
        self._rounds = rounds
        self._start_s = time.monotonic()
        self._told = 0

    def look(self) -> bool:
        """Tell what is new; whether the server has ended."""
        ended = self._server.popen.poll() is not None
        for record in whole_json_lines(self._path)[self._told + 1 :]:
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


def write_device_samples(folder: Path, prepared: PreparedData, device: int) -> Path:
    """Write the samples of one device into a new `folder`, which `cutlayer join --data` reads.

    In the order in which the partition deals them, so that a device makes the mini-batches that the
    trainer makes.
    Raises DataError for images of several sizes, and for a language model: its samples are blocks
    of tokens, not texts.
    """
    data, part = prepared.data, prepared.parts[device]
    if prepared.task == "causal-lm":
        raise DataError(
            f"{data.name}: the lab supports images and labelled texts; for a language model use"
            " `cutlayer train`"
        )
    folder.mkdir(parents=True)
    if prepared.task == "image-classification":
        _write_images(folder, data, part)
    else:
        _write_texts(folder, data, part)
    return folder


def _write_images(folder: Path, data: DataSet, part: Int64[np.ndarray, " sample"]) -> None:
    images = [np.asarray(data.train.read(int(index))) for index in part]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(
            f"{data.name} has images of {len(sizes)} sizes: the lab needs images of one size"
        )
    train = (np.stack(images), data.train.labels[part])
    write_arrays(folder, train, (train[0][:0], train[1][:0]), data.class_names)


def _write_texts(folder: Path, data: DataSet, part: Int64[np.ndarray, " sample"]) -> None:
    rows = [
        (str(data.train.read(int(index))), data.class_names[int(data.train.labels[index])])
        for index in part
    ]
    write_json_lines(folder / _TABLE, rows)
