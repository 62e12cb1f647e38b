"""Workers on a Ray cluster: actors of one CPU each, and what they share in its object store.

Knows Ray and nothing of what is computed. A cluster that is started here is of this machine alone,
and ends with the engine.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, final

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectStoreFullError, RayActorError, RayError

from cutlayer.config.training import RayEngine
from cutlayer.errors import ConfigError, CutlayerError, RunError, raised
from cutlayer.jobs.workers import (
    BeginWork,
    Ended,
    Engine,
    Said,
    Shared,
    Value,
    Worker,
    WorkerDied,
    packed,
    unpacked,
)
from cutlayer.logs import records_to
from cutlayer.units import MIB

# how often it is asked whether workers that nobody hears of have found room
_ASKED_S = 1.0


@final
class RayCluster(Engine):
    """`workers` actors; one that has no room for `wait_s` is given up. `ours`: the connection ends
    with the engine."""

    def __init__(self, workers: int, wait_s: float, *, ours: bool) -> None:
        self.workers = workers
        self._wait_s = wait_s
        self._ours = ours

    @staticmethod
    def of(section: RayEngine) -> "RayCluster":
        """The cluster of a configuration. Raises ConfigError for more workers than it has CPUs,
        RunError where nobody answers."""
        ours = not ray.is_initialized()
        if ours:
            _connect(section)
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus = int(found.get("CPU", 0))
        engine = RayCluster(section.workers or cpus, section.wait_s, ours=ours)
        if engine.workers > cpus:
            engine.close()
            raise ConfigError(
                f"engine.workers {engine.workers}, each of one CPU, and the cluster has {cpus}:"
                " lower it, or add nodes"
            )
        return engine

    def share(self, value: Value) -> Shared[Value]:
        stream, buffers = packed(value)
        arrays = [np.frombuffer(buffer, dtype=np.uint8) for buffer in buffers]
        try:
            return _InStore(ray.put((stream, arrays)))
        except ObjectStoreFullError as error:
            size = sum(array.nbytes for array in arrays)
            raise RunError(
                f"the workers share {size / MIB:.0f} MiB, for which Ray's object store has no room:"
                " raise engine.memory_mib, or the memory of a cluster's store"
            ) from error

    def start(self, begin: BeginWork[Any, Any]) -> Worker:
        return _ActorWorker(begin, self._wait_s)

    def heard(self, busy: Sequence[Worker]) -> list[Worker]:
        workers = [worker for worker in busy if isinstance(worker, _ActorWorker)]
        refs = {worker.last: worker for worker in workers}
        while True:
            ready, _ = ray.wait(list(refs), num_returns=1, timeout=_ASKED_S)
            late = [worker for worker in workers if worker.is_late()]
            if ready or late:
                return [*(refs[ref] for ref in ready)] or [*late]

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._ours:
            ray.shutdown()


def _connect(section: RayEngine) -> None:
    """Raises RunError where no cluster answers."""
    address = section.address
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        with _our_signals():
            if address is None:
                # as those of `processes`: nothing is sent to Ray's makers, nor waits for others
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                os.environ.setdefault("RAY_worker_niceness", "0")
                ray.init(
                    address="local",
                    num_cpus=section.workers or os.cpu_count() or 1,
                    object_store_memory=round(section.memory_mib * MIB),
                    include_dashboard=False,
                    **quiet,
                )
                return
            _wait_for(address, section.wait_s)
            ray.init(address=address, **quiet)
    except CutlayerError:
        raise
    except ValueError as error:
        raise ConfigError(f"engine ray: {raised(error)}") from error
    except (ConnectionError, RuntimeError, TimeoutError, RayError, ImportError) as error:
        where = "on this machine" if address is None else f"at engine.address {address}"
        raise RunError(f"no Ray cluster {where}: {raised(error)}; {_REMEDY}") from error


_REMEDY = (
    "start one (`ray start --head`) and give its HOST:PORT on one of its nodes, or ray://HOST:PORT"
    " elsewhere; without engine.address one is started here"
)


def _wait_for(address: str, wait_s: float) -> None:
    """Until somebody listens there. Raises ConfigError for no address, RunError after `wait_s`."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(
            f"engine.address {address}: give HOST:PORT, ray://HOST:PORT or auto, or leave it out"
        )
    until = time.monotonic() + wait_s
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=max(0.1, wait_s)).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() >= until:
                raise RunError(
                    f"no Ray cluster answers at engine.address {address} within {wait_s:g} s"
                    f" ({raised(error)}); {_REMEDY}"
                ) from error
            time.sleep(min(0.2, wait_s))


@contextmanager
def _our_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which ends a run that can be resumed."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)


@final
@dataclass(frozen=True)
class _InStore(Generic[Value]):
    ref: Any

    def __call__(self) -> Value:
        stream, arrays = ray.get(self.ref)
        value: Value = unpacked(stream, arrays)
        return value


class _Actor:
    """Runs on the cluster."""

    def __init__(self) -> None:
        self._work: Callable[[Any], Any] | None = None

    def is_there(self) -> None:
        """Whether it has found room."""

    def begin(self, begin: BeginWork[Any, Any]) -> None:
        """Before the first item."""
        self._begin = begin

    def work(self, stream: bytes, arrays: list[np.ndarray]) -> tuple[bytes, list[np.ndarray]]:
        """An item, and what came of it or was raised, as `packed` has them."""
        said: list[Said] = []
        with records_to(lambda record: said.append(Said(record.levelno, record.getMessage()))):
            try:
                self._work = self._work or self._begin()
                # of its own: what is in the store may not be written to
                item = unpacked(stream, [array.copy() for array in arrays])
                return _sent(Ended(self._work(item), tuple(said)))
            except Exception as error:
                return _sent(error)


def _sent(value: Any) -> tuple[bytes, list[np.ndarray]]:
    stream, buffers = packed(value)
    return stream, [np.frombuffer(buffer, dtype=np.uint8) for buffer in buffers]


@final
class _ActorWorker(Worker):
    """`last`: what is waited for."""

    def __init__(self, begin: BeginWork[Any, Any], wait_s: float) -> None:
        self._wait_s = wait_s
        self._started_s = time.monotonic()
        actor: Any = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        self._actor = actor.remote()
        self._there = self._actor.is_there.remote()
        self._is_there = False
        self._begun = self._actor.begin.remote(begin)
        self.last: Any = self._begun

    def send(self, item: Any) -> None:
        stream, arrays = _sent(item)
        self.last = self._actor.work.remote(stream, arrays)

    def is_late(self) -> bool:
        """Whether it has found no room on the cluster for too long."""
        if not self._is_there:
            self._is_there = bool(ray.wait([self._there], timeout=0)[0])
        return not self._is_there and time.monotonic() > self._started_s + self._wait_s

    def receive(self) -> Ended[Any] | Exception | WorkerDied:
        if self.is_late():
            return RunError(
                f"the Ray cluster had no CPU for a worker within engine.wait_s {self._wait_s:g} s:"
                " lower engine.workers, or wait until others have ended"
            )
        try:
            ray.get(self._begun)
            stream, arrays = ray.get(self.last)
        except RayActorError as error:
            return WorkerDied(None, f"actor died ({str(error).splitlines()[0]})")
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            return RunError(
                f"a Ray worker cannot take its work: {raised(cause)}; install the same cutlayer and"
                " plugins on all nodes"
            )
        got: Ended[Any] | Exception = unpacked(stream, [array.copy() for array in arrays])
        return got

    def stop(self) -> None:
        with suppress(RayError, GetTimeoutError):
            ray.kill(self._actor)
