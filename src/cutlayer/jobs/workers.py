"""Work spread over workers: each is begun once, and takes an item when it has ended one.

A worker that dies is replaced by another, which may begin its item again. What many of them read,
as frozen weights, is shared and not copied. Here the workers are this process or others of this
machine; `ray_workers` has those of a cluster. Knows no job.
"""

import importlib
import io
import logging
import mmap
import os
import pickle
import signal
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Generic, TypeVar, final

import numpy as np

from cutlayer.config.training import EngineSection, LocalEngine, ProcessesEngine, RayEngine
from cutlayer.errors import RunError, needing
from cutlayer.logs import records_to

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")
# called once in a worker; gives what is called for each item
BeginWork = Callable[[], Callable[[Item], Result]]
# gives a shared value in a worker
Shared = Callable[[], Value]


@dataclass(frozen=True)
class WorkerDied:
    """A worker that ended with its work undone. `why`: in place of an exit code."""

    exit_code: int | None
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return self.why
        return f"process ended with code {self.exit_code} (-9: killed, often for want of memory)"


@dataclass(frozen=True)
class Said:
    """A line that a worker logs."""

    level: int
    line: str


@dataclass(frozen=True)
class Ended(Generic[Result]):
    """What came of an item, and what was said meanwhile, if that was not told at once."""

    result: Result
    said: tuple[Said, ...] = ()


class Worker(ABC):
    """Whoever works on one item at a time."""

    @abstractmethod
    def send(self, item: Any) -> None:
        """An item to work on; of a worker that is gone, `receive` tells."""

    @abstractmethod
    def receive(self) -> Said | Ended[Any] | Exception | WorkerDied:
        """What it tells next, once it is heard of."""

    @abstractmethod
    def stop(self) -> None:
        """End it, whatever it is at."""


class Engine(ABC):
    """Where workers are, and how many of them."""

    workers: int

    @abstractmethod
    def share(self, value: Value) -> Shared[Value]:
        """What gives the value in every worker, which does not change it; its arrays and tensors
        are in memory once a machine. Raises RunError: a value that cannot leave this process."""

    @abstractmethod
    def start(self, begin: BeginWork[Any, Any]) -> Worker:
        """A new worker. Raises RunError."""

    @abstractmethod
    def heard(self, busy: Sequence[Worker]) -> list[Worker]:
        """Those that have something to tell, or are gone; waits for the first."""


@final
class Pool(Generic[Item, Result]):
    """Workers that stay from one list of items to the next, until the pool is closed.

    An item whose worker died is begun again, by another, at most `retries` times, as what `again`
    makes of it.
    """

    def __init__(
        self,
        engine: Engine,
        begin: BeginWork[Item, Result],
        *,
        retries: int = 0,
        again: Callable[[Item], Item] = lambda item: item,
    ) -> None:
        self._engine = engine
        self._begin = begin
        self._retries = retries
        self._again = again
        self._busy: dict[Worker, tuple[Item, int]] = {}
        self._idle: list[Worker] = []

    def each(
        self, items: Iterable[Item]
    ) -> Generator[tuple[Item, Result | Exception | WorkerDied], None, None]:
        """Every item with what became of it, begun in that order but for who ends first.

        One that raised ends its worker, and a new one takes its place. Items and results are
        pickled on their way. What a worker logs is logged here.
        """
        coming = iter(items)
        killed: deque[tuple[Item, int]] = deque()
        while True:
            while len(self._busy) < self._engine.workers:
                following = killed.popleft() if killed else _next(coming, self._retries)
                if following is None:
                    break
                worker = self._idle.pop() if self._idle else self._engine.start(self._begin)
                self._busy[worker] = following
                worker.send(following[0])
            if not self._busy:
                return
            for worker in self._engine.heard(list(self._busy)):
                got = worker.receive()
                if isinstance(got, Said):
                    _LOG.log(got.level, "%s", got.line)
                    continue
                item, left = self._busy.pop(worker)
                if isinstance(got, Ended):
                    self._idle.append(worker)
                    for each in got.said:
                        _LOG.log(each.level, "%s", each.line)
                    yield item, got.result
                    continue
                worker.stop()
                if isinstance(got, WorkerDied) and left:
                    killed.append((self._again(item), left - 1))
                else:
                    yield item, got

    def close(self) -> None:
        """End all workers."""
        for worker in (*self._busy, *self._idle):
            worker.stop()
        self._busy, self._idle = {}, []


def _next(items: Iterator[Item], retries: int) -> tuple[Item, int] | None:
    for item in items:
        return item, retries
    return None


def spread(
    engine: Engine,
    begin: BeginWork[Item, Result],
    items: Iterable[Item],
    *,
    retries: int = 0,
    again: Callable[[Item], Item] = lambda item: item,
) -> Generator[tuple[Item, Result | Exception | WorkerDied], None, None]:
    """As `Pool.each`; no worker outlives the generator."""
    pool = Pool(engine, begin, retries=retries, again=again)
    try:
        yield from pool.each(items)
    finally:
        pool.close()


# Values as bytes. Tensors go as the arrays that they are: torch's own way through a pipe leaves
# them with a process that may be gone.


def dumped(value: Any) -> bytes:
    """Of a value on the host; `pickle.loads` makes it again."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


def packed(value: Any) -> tuple[bytes, list[memoryview]]:
    """A value on the host, and apart from it, not copied, the bytes of its arrays and tensors.
    Raises RunError for a value that cannot leave this process."""
    stream, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler = _Pickler(stream, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise RunError(
            f"workers cannot be given what this run is made of: {error}; set engine to local"
        ) from error
    return stream.getvalue(), [buffer.raw() for buffer in buffers]


def unpacked(stream: bytes, buffers: Sequence[Any]) -> Any:
    """The inverse of `packed`; arrays and tensors are in the buffers."""
    with warnings.catch_warnings():
        # torch knows no tensor that may not be written to
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return pickle.loads(stream, buffers=buffers)


@final
class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or type(value) is not torch.Tensor:
            return NotImplemented
        plain, strides = value.detach(), None
        if not plain.is_contiguous():  # another order of values may be summed up in another order
            strides = plain.stride()
            span = sum((n - 1) * step for n, step in zip(plain.shape, strides, strict=True)) + 1
            plain = plain.as_strided((span if plain.numel() else 0,), (1,))
        array = plain.reshape(-1).view(torch.uint8).numpy()
        return _tensor_of, (array, value.dtype, tuple(value.shape), strides)


def _tensor_of(
    array: np.ndarray, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None
) -> Any:
    torch = importlib.import_module("torch")  # not where no tensors are sent
    flat = torch.from_numpy(array).view(dtype)
    return flat.reshape(shape) if strides is None else flat.as_strided(shape, strides)


# Which engine a configuration asks for.


@contextmanager
def opened(section: EngineSection, modules: Sequence[str] = ()) -> Iterator[Engine]:
    """The engine, whose workers end with the context. `modules`: what they all import, at once
    where that can be. Raises ConfigError for a package that is not there, RunError for a cluster
    that does not answer."""
    match section:
        case LocalEngine():
            yield Local()
        case ProcessesEngine():
            with closing(Processes(section.workers or os.cpu_count() or 1, modules)) as processes:
                yield processes
        case RayEngine():
            with needing("engine ray", "ray"):
                from cutlayer.jobs.ray_workers import RayCluster
            with closing(RayCluster.of(section)) as cluster:
                yield cluster


# This process.


@final
class Local(Engine):
    """One worker, which is this process: nothing is pickled."""

    workers = 1

    def share(self, value: Value) -> Shared[Value]:
        return lambda: value

    def start(self, begin: BeginWork[Any, Any]) -> Worker:
        return _Here(begin)

    def heard(self, busy: Sequence[Worker]) -> list[Worker]:
        return list(busy)


@final
class _Here(Worker):
    def __init__(self, begin: BeginWork[Any, Any]) -> None:
        self._begin = begin
        self._work: Callable[[Any], Any] | None = None
        self._item: Any = None

    def send(self, item: Any) -> None:
        self._item = item

    def receive(self) -> Ended[Any] | Exception:
        try:
            self._work = self._work or self._begin()
            return Ended(self._work(self._item))
        except Exception as error:
            return error

    def stop(self) -> None:
        self._work = None


# Processes of this machine.


@final
class Processes(Engine):
    """Processes that end when this one does, however it ends. What they share lies in a file that
    they map, in a folder that is there until the engine is closed. `modules`: what is imported
    once, for all."""

    def __init__(self, workers: int, modules: Sequence[str] = ()) -> None:
        self.workers = workers
        self._folder: TemporaryDirectory[str] | None = None
        self._shared = 0
        # not a fork of this process, whose threads it would not have
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(list(modules))

    def share(self, value: Value) -> Shared[Value]:
        self._folder = self._folder or TemporaryDirectory(prefix="cutlayer-", dir=_memory())
        path = Path(self._folder.name) / f"{self._shared}"
        self._shared += 1
        stream, buffers = packed(value)
        try:
            with path.open("xb") as file:
                ends = [_written(file, buffer) for buffer in buffers]
        except OSError as error:
            raise RunError(
                f"no room for what the workers share, {path}: {error.strerror}; set TMPDIR to a"
                " folder that has room, or engine to local"
            ) from error
        return partial(_mapped, path, stream, tuple(ends))

    def close(self) -> None:
        """Give back what was shared."""
        if self._folder is not None:
            self._folder.cleanup()

    def start(self, begin: BeginWork[Any, Any]) -> Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(begin, theirs), daemon=True)
        process.start()
        # else the pipe would stay open when the process is gone
        theirs.close()
        return _Process(process, ours)

    def heard(self, busy: Sequence[Worker]) -> list[Worker]:
        by_end = {worker.end: worker for worker in busy if isinstance(worker, _Process)}
        ready = wait(list(by_end))
        return [worker for end, worker in by_end.items() if end in ready]


def _memory() -> str | None:
    """A folder in memory, where there is one; else the usual one for temporary files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) and "TMPDIR" not in os.environ else None


_ALIGNED = 64


def _written(file: io.BufferedWriter, buffer: memoryview) -> tuple[int, int]:
    """Where in the file the buffer begins and ends."""
    first = -(-file.tell() // _ALIGNED) * _ALIGNED
    file.seek(first)
    file.write(buffer)
    return first, first + buffer.nbytes


def _mapped(path: Path, stream: bytes, places: tuple[tuple[int, int], ...]) -> Any:
    """The value whose arrays lie in a file. Whoever writes to them has a copy of those pages."""
    if not places or not places[-1][1]:
        return unpacked(stream, [bytearray() for _ in places])
    with path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return unpacked(stream, [whole[first:end] for first, end in places])


@final
class _Process(Worker):
    def __init__(self, process: BaseProcess, end: Connection) -> None:
        self._process = process
        self.end = end

    def send(self, item: Any) -> None:
        with suppress(OSError):
            self.end.send_bytes(dumped(item))

    def receive(self) -> Said | Ended[Any] | Exception | WorkerDied:
        try:
            got: Said | Ended[Any] | Exception = pickle.loads(self.end.recv_bytes())
        except (EOFError, OSError):
            self._process.join()
            return WorkerDied(self._process.exitcode)
        return got

    def stop(self) -> None:
        self.end.close()
        self._process.kill()
        self._process.join()


def _serve(begin: BeginWork[Item, Result], end: Connection) -> None:
    """A process: work on what comes until nobody is there any more."""
    Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C is for the process that started this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        try:
            with records_to(
                lambda record: end.send_bytes(
                    pickle.dumps(Said(record.levelno, record.getMessage()))
                )
            ):
                work = begin()
                while True:
                    end.send_bytes(dumped(Ended(work(pickle.loads(end.recv_bytes())))))
        except Exception as error:
            end.send_bytes(pickle.dumps(error))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker is another process's child"
    parent.join()
    os._exit(1)
