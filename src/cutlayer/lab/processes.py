"""The lab's own processes: started, watched, and stopped at the end.

Knows commands and log files; no run and no network.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cutlayer.errors import RunError

_TICK_S = 0.2
_STOP_S = 10.0
_END_S = 60.0


def cutlayer_command(*words: str) -> tuple[str, ...]:
    """`cutlayer WORDS`, by this very interpreter."""
    return (sys.executable, "-m", "cutlayer", *words)


@dataclass(frozen=True, eq=False)
class Process:
    """A process whose standard error goes to `log`."""

    name: str
    popen: subprocess.Popen[str]
    log: Path

    def messages(self) -> list[str]:
        """What it has logged so far: of JSON lines the message, of others the line."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return [_message(line) for line in text.splitlines() if line.strip()]


@final
class Processes:
    """Processes with logs in `folder` and one OpenMP thread each; as a context, stopped at its
    end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Process] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def start(
        self,
        name: str,
        words: Sequence[str],
        *,
        told: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start one; `told`: what it reads on standard input. Raises RunError if it cannot be."""
        log = self._folder / f"{name}.log"
        try:
            with log.open("w", encoding="utf-8") as file:
                popen = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                    text=True,
                    # an interrupt at the terminal is the lab's to hear, and to stop this in order
                    start_new_session=True,
                )
        except OSError as error:
            raise RunError(f"{name} cannot be started: {error}") from error
        process = Process(name, popen, log)
        self._started.append(process)
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


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return line
