"""Trainings spread over processes, each result as it comes.

Knows how processes are fed and what becomes of one that dies; not what is trained.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from cutlayer.config.schema import Config
from cutlayer.errors import RunError
from cutlayer.profiling.log import Line
from cutlayer.profiling.trainer import Trainer, Wanted


@dataclass(frozen=True)
class _Worker:
    """A process and our end of its pipe."""

    process: SpawnProcess
    end: Connection


def train_in_processes(config: Config, wanted: Sequence[Wanted], workers: int) -> Iterator[Line]:
    """Train everything `wanted`, in that order but for who ends first.

    A process gets its next training when it has ended one. Raises what a training raised, and
    RunError if a process died.
    """
    todo = iter(wanted)
    pool = [_start(config) for _ in range(min(workers, len(wanted)))]
    busy = {worker.end: worker for worker in pool}
    try:
        for worker in pool:
            _send(worker, next(todo))
        while busy:
            for end in wait(list(busy)):
                worker = next(one for one in busy.values() if one.end is end)
                line = _receive(worker)
                following = next(todo, None)
                if following is None:
                    del busy[worker.end]
                else:
                    _send(worker, following)
                yield line
    finally:
        for worker in pool:
            worker.end.close()
            worker.process.terminate()
            worker.process.join()


def _start(config: Config) -> _Worker:
    # a forked copy of torch's threads may hang: a new interpreter
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(config, theirs), daemon=True)
    process.start()
    # else the pipe would stay open when the process is gone
    theirs.close()
    return _Worker(process, ours)


def _send(worker: _Worker, wanted: Wanted) -> None:
    try:
        worker.end.send(wanted)
    except OSError as error:
        raise _died(worker) from error


def _receive(worker: _Worker) -> Line:
    try:
        result: Line | Exception = worker.end.recv()
    except (EOFError, OSError) as error:
        raise _died(worker) from error
    if isinstance(result, Exception):
        raise result
    return result


def _died(worker: _Worker) -> RunError:
    worker.process.join()
    return RunError(
        f"a training process ended with code {worker.process.exitcode} (-9: killed, often for want"
        " of memory); what has finished is kept: the same command goes on, with fewer --workers if"
        " memory is short"
    )


def _serve(config: Config, end: Connection) -> None:
    """A process: train what comes until nobody is there any more."""
    # Ctrl-C is for the process that started this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        try:
            trainer = Trainer(config)
            while True:
                wanted: Wanted = end.recv()
                end.send(trainer.train(wanted))
        except Exception as error:
            end.send(error)
