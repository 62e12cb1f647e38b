"""Runs of a sweep trained, here one after another or several at a time in processes of their own,
which end when this one does, however it ends; one that is killed is resumed by another.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import final

from cutlayer.errors import CutlayerError
from cutlayer.report.comparison import ComparedRun
from cutlayer.report.run_reader import read_record
from cutlayer.training.records import Observer

_LOG = logging.getLogger(__name__)


class Waiting(ABC):
    """A run that is to be trained; sent to another process as it is."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Its name."""

    @property
    @abstractmethod
    def threads(self) -> int | None:
        """Torch's; None: its part of the machine."""

    @abstractmethod
    def train(self, observer: Observer | None) -> ComparedRun:
        """From where it is to its end. Raises CutlayerError."""

    @abstractmethod
    def again(self) -> "Waiting":
        """The same, from where it is now."""


def train_all(
    runs: Sequence[ComparedRun | Waiting], workers: int, observer: Observer | None
) -> tuple[dict[str, ComparedRun], dict[str, str]]:
    """The runs that ended, by label, and why others did not."""
    done = {run.label: run for run in runs if isinstance(run, ComparedRun)}
    waiting = [run for run in runs if not isinstance(run, ComparedRun)]
    if done:
        _LOG.info(f"{len(done)} of {len(runs)} runs finished before")
    failed: dict[str, str] = {}

    def ended(label: str, outcome: ComparedRun | str) -> None:
        if isinstance(outcome, str):
            failed[label] = outcome
            _LOG.warning("%s: failed: %s", label, outcome)
            return
        done[label] = outcome
        score = outcome.record.summary.score_final
        _LOG.info(f"{label}: {score.measure} {score.value:.4g} ({len(done)} of {len(runs)} runs)")

    if workers == 1 or len(waiting) < 2:
        for run in waiting:
            _LOG.info(f"{run.label}: run {len(done) + len(failed) + 1} of {len(runs)}")
            ended(run.label, _outcome(run, observer))
    else:
        with _terminated() as started:
            _Workers(workers, started, ended).train(waiting)
    return done, failed


def _outcome(run: Waiting, observer: Observer | None) -> ComparedRun | str:
    """The run, or why it failed."""
    try:
        return run.train(observer)
    except CutlayerError as error:
        return str(error)


# Runs in processes of their own.


# how often a run goes on whose process was killed
_RETRIES = 2


@final
class _Workers:
    """At most `count` processes, one a run. `started`: those that live."""

    def __init__(
        self,
        count: int,
        started: set[BaseProcess],
        ended: Callable[[str, ComparedRun | str], None],
    ) -> None:
        self._count = count
        self._started = started
        self._ended = ended
        self._context = get_context("forkserver")
        # torch is imported once, for all
        self._context.set_forkserver_preload(["cutlayer.jobs.train"])
        self._running: dict[Connection, tuple[BaseProcess, Waiting, int]] = {}

    def train(self, runs: Sequence[Waiting]) -> None:
        """All of them, in their order."""
        waiting = deque((run, _RETRIES) for run in runs)
        while waiting or self._running:
            while waiting and len(self._running) < self._count:
                self._start(*waiting.popleft())
            for told in wait(list(self._running)):
                assert isinstance(told, Connection)
                process, run, left = self._running.pop(told)
                outcome = self._outcome(told, process, run)
                self._started.discard(process)
                if outcome is None and left:
                    _LOG.warning("%s: its process was killed: it goes on in another", run.label)
                    waiting.appendleft((run.again(), left - 1))
                    continue
                self._ended(run.label, outcome or f"its process ended with {process.exitcode}")

    def _start(self, run: Waiting, left: int) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        threads = max(1, (os.cpu_count() or 1) // self._count)
        process = self._context.Process(target=_work, args=(run, threads, theirs), daemon=True)
        process.start()
        self._started.add(process)
        theirs.close()  # so that its end is seen here
        self._running[ours] = (process, run, left)
        _LOG.info(f"{run.label}: begins")

    def _outcome(
        self, told: Connection, process: BaseProcess, run: Waiting
    ) -> ComparedRun | str | None:
        """None: it was killed before it told anything."""
        try:
            place, failure = told.recv()
        except EOFError:
            process.join()
            return None
        finally:
            told.close()
        process.join()
        return failure or ComparedRun(run.label, read_record(Path(place)), place)


def _work(run: Waiting, threads: int, tell: Connection) -> None:
    """One run, in a process that does not outlive the sweep."""
    Thread(target=_end_with_parent, daemon=True).start()
    if run.threads is None:
        import torch  # not where runs are planned

        torch.set_num_threads(threads)
    outcome = _outcome(run, None)
    tell.send((outcome.place, None) if isinstance(outcome, ComparedRun) else (None, outcome))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker is another process's child"
    parent.join()
    os._exit(1)


@contextmanager
def _terminated() -> Iterator[set[BaseProcess]]:
    """What is started within ends with it."""
    started: set[BaseProcess] = set()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
