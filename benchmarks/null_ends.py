"""The workers and files of both ends without anything in them: what is left is sessions and links.

A round has the frames of a real one, of these sizes, and no computation.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cutlayer.net.device_driver import DeviceDriver, Ready
from cutlayer.net.device_store import Stored
from cutlayer.net.device_watch import DeviceWatch
from cutlayer.net.frames import Position
from cutlayer.net.journal import Entry, Journal
from cutlayer.net.limits import Bounds
from cutlayer.net.messages import Activation, Adapter, Gradient, Micro, Open, Terms, Weight
from cutlayer.net.server_driver import ServerDriver
from cutlayer.net.server_session import RunPlan, ServerSession
from cutlayer.net.server_watch import ServerWatch


@dataclass(frozen=True)
class Sizes:
    """Payloads of a device's round [bytes], and its local steps, of one micro-batch each."""

    activation: int
    labels: int
    gradient: int
    adapter: int
    samples: int
    local_steps: int

    @property
    def bounds(self) -> Bounds:
        """Nothing longer comes."""
        return Bounds(
            activation_bytes=self.activation,
            labels_bytes=self.labels,
            gradient_bytes=self.gradient,
            adapter_bytes=self.adapter,
            samples=self.samples,
            steps=self.local_steps,
        )


class NullJournal:
    """Keeps nothing."""

    def append(self, round_number: int, entry: Entry) -> None:
        """Nothing."""

    def drop_before(self, round_number: int) -> None:
        """Nothing."""


class Rounds:
    """A server's run whose rounds begin when `play` is called, the first one apart."""

    def __init__(self, plan: RunPlan, sizes: Sizes, journal: Journal | NullJournal) -> None:
        worker = _ServerWorker(sizes)
        session = ServerSession(plan, worker.adapter)
        controller = _Controller(plan.shares)
        self.driver = ServerDriver(session, worker, journal, controller, self._save, self._compute)
        self._closed_s: asyncio.Queue[float] = asyncio.Queue()
        self._begin = asyncio.Event()
        self._saved = False

    async def first(self) -> None:
        """Wait until all devices have come and played a round."""
        await self._closed_s.get()

    async def play(self) -> float:
        """How long the next round takes [s]: from its opening to the last adapter."""
        began_s = time.monotonic()
        self._begin.set()
        return await self._closed_s.get() - began_s

    async def stop(self) -> None:
        """Handle nothing any more."""
        self._begin.set()  # who waits for it has its turn, and nobody else gets one
        await self.driver.stop()

    def _save(self, state: object, measured: object) -> None:
        self._closed_s.put_nowait(time.monotonic())
        self._saved = True

    async def _compute(self, work: Callable[[], Any]) -> Any:
        """Here and now; but a round that has closed waits."""
        found = work()
        if self._saved:
            self._saved = False
            await self._begin.wait()
            self._begin.clear()
        return found


def null_device(sizes: Sizes) -> DeviceDriver:
    """A device's sessions."""
    worker = _DeviceWorker(sizes)

    def prepare(terms: Terms) -> Ready:
        return Ready(terms, worker, sizes.bounds)

    return DeviceDriver(_Store(), prepare, _in_place, DeviceWatch(time.monotonic))


async def _in_place(work: Callable[[], Any]) -> Any:
    return work()


class _ServerWorker:
    def __init__(self, sizes: Sizes) -> None:
        self._gradient = bytes(sizes.gradient)
        self.state = None
        self.held_bytes = 0
        self.adapter = bytes(sizes.adapter)

    def train(self, device: int, message: Activation) -> bytes:
        return self._gradient

    def take(self, device: int, message: Adapter) -> None:
        pass

    def renew(self, device: int) -> None:
        pass

    def merge(self, made: object, measured: object) -> None:
        pass


class _Controller:
    """Notes times as a run does, and shares nothing out anew."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        self.watch = ServerWatch(time.monotonic)
        self.shares = shares

    def close(self) -> None:
        self.watch.close()

    def reopen(self, state: object, measured: object) -> tuple[float, ...]:
        return self.shares


class _DeviceWorker:
    def __init__(self, sizes: Sizes) -> None:
        self._packet, self._labels = bytes(sizes.activation), bytes(sizes.labels)
        self._adapter = bytes(sizes.adapter)
        self._samples = tuple(range(sizes.samples))

    def begin(self, message: Open) -> None:
        pass

    def forward(self, position: Position) -> Activation:
        return Activation(position, Micro(1.0, True), self._packet, self._labels, self._samples)

    def backward(self, message: Gradient, *, last: bool) -> None:
        pass

    def adapter(self, round_number: int) -> Adapter:
        return Adapter(round_number, Weight(1), self._adapter)

    def tensors(self) -> Mapping[str, object]:
        return {}


class _Store:
    def load(self) -> None:
        return None

    def save(self, stored: Stored) -> None:
        pass
