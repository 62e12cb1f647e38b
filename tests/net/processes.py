"""`cutlayer` commands as processes of their own, which start in an instant.

A process that has imported all there is to import, and does nothing else, splits off each of them:
what they do from there on is what the command does.
"""

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import final

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["net.processes", "cutlayer.jobs.serve", "cutlayer.jobs.join"])
_POLL_S = 0.01
_HOURS_S = 10 * 3600.0


@final
class Command:
    """A running `cutlayer`, and what it says. `clock_jumps`: its wall clock goes hours ahead and
    back, from one look at it to the next."""

    def __init__(self, folder: Path, name: str, *words: str, clock_jumps: bool = False) -> None:
        self.log = folder / f"{name}.log"
        self._process = _CONTEXT.Process(
            target=_run, args=(folder, self.log, words, clock_jumps), daemon=True
        )
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    async def ends(self) -> int:
        """Its exit code; of a signal, less than 0."""
        while self._process.exitcode is None:
            await asyncio.sleep(_POLL_S)
        return self._process.exitcode

    def signal(self, number: signal.Signals) -> bool:
        """Whether it was there to hear it."""
        if not self.running or self._process.pid is None:
            return False
        os.kill(self._process.pid, number)
        return True

    def text(self) -> str:
        """All that was said under this name."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""


def _run(folder: Path, log: Path, words: tuple[str, ...], clock_jumps: bool) -> None:
    """In the new process."""
    os.chdir(folder)
    os.environ["CUTLAYER_CACHE"] = str(folder / "cache")
    opened = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(opened, stream)
    if clock_jumps:
        _let_the_clock_jump()
    from cutlayer.cli.main import main

    code = main(words)
    sys.stderr.flush()
    os._exit(code)


def _let_the_clock_jump() -> None:
    """As if somebody set it, all the time."""
    real, rng = time.time, random.Random(0)
    time.time = lambda: real() + rng.choice((-_HOURS_S, 0.0, _HOURS_S))
