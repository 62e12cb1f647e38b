"""Work spread over processes, each result as it comes.

Knows how processes are fed, heard and ended, and what becomes of one that dies; not what they do.
"""

import logging
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

from cutlayer.logs import records_to

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
# called once in a process; gives what is called for each item
BeginWork = Callable[[], Callable[[Item], Result]]


@dataclass(frozen=True)
class ProcessDied:
    """A process that ended with its work undone."""

    exit_code: int | None

    def __str__(self) -> str:
        return f"process ended with code {self.exit_code} (-9: killed, often for want of memory)"


@dataclass(frozen=True)
class _Said:
    level: int
    line: str


@dataclass(frozen=True)
class _Ended(Generic[Result]):
    result: Result


@dataclass(frozen=True, eq=False)
class _Worker:
    """A process and our end of its pipe."""

    process: SpawnProcess
    end: Connection


def spread_over_processes(
    begin: BeginWork[Item, Result], items: Iterable[Item], workers: int
) -> Generator[tuple[Item, Result | Exception | ProcessDied], None, None]:
    """Every item with what became of it, begun in that order but for who ends first.

    A process gets its next item when it has ended one; one that raised is ended, and a new one
    takes its place, as where one died. `begin`, items and results are pickled on their way. What a
    process logs is logged here. No process outlives the generator.
    """
    todo, busy, idle = deque(items), dict[_Worker, Item](), list[_Worker]()
    try:
        while todo or busy:
            while todo and len(busy) < workers:
                worker = idle.pop() if idle else _start(begin)
                busy[worker] = todo.popleft()
                _send(worker, busy[worker])
            for worker in _heard(busy):
                got: _Said | _Ended[Result] | Exception | ProcessDied = _receive(worker)
                if isinstance(got, _Said):
                    _LOG.log(got.level, "%s", got.line)
                elif isinstance(got, _Ended):
                    idle.append(worker)
                    yield busy.pop(worker), got.result
                else:
                    _stop(worker)
                    yield busy.pop(worker), got
    finally:
        for worker in (*busy, *idle):
            _stop(worker)


def _start(begin: BeginWork[Item, Result]) -> _Worker:
    # a forked copy of torch's threads may hang: a new interpreter
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(begin, theirs), daemon=True)
    process.start()
    # else the pipe would stay open when the process is gone
    theirs.close()
    return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
    worker.end.close()
    worker.process.terminate()
    worker.process.join()


def _send(worker: _Worker, item: Item) -> None:
    # of a process that is gone, receiving tells
    with suppress(OSError):
        worker.end.send(item)


def _heard(workers: Iterable[_Worker]) -> list[_Worker]:
    """Those that have sent something, or died; waits for the first."""
    by_end = {worker.end: worker for worker in workers}
    ready = wait(list(by_end))
    return [worker for end, worker in by_end.items() if end in ready]


def _receive(worker: _Worker) -> _Said | _Ended[Result] | Exception | ProcessDied:
    try:
        got: _Said | _Ended[Result] | Exception = worker.end.recv()
    except (EOFError, OSError):
        worker.process.join()
        return ProcessDied(worker.process.exitcode)
    return got


def _serve(begin: BeginWork[Item, Result], end: Connection) -> None:
    """A process: work on what comes until nobody is there any more."""
    # Ctrl-C is for the process that started this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        try:
            with records_to(lambda record: end.send(_Said(record.levelno, record.getMessage()))):
                work = begin()
                while True:
                    end.send(_Ended(work(end.recv())))
        except Exception as error:
            end.send(error)
