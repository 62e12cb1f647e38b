"""The event simulation of one round: devices in parallel, one FIFO server.

Between two visits to the server a device waits for nobody, so the only events are arrivals: the
heap holds one per device. Ties go to the lower device number.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import Phase, Place, Scheme
from cutlayer.timeline.work import DeviceWork, chain_seconds


@dataclass(frozen=True)
class Event:
    """One step of one device on the virtual clock; `local_step` is None in opening and closing."""

    device: int
    local_step: int | None
    phase: Phase
    start_s: float
    end_s: float
    payload_bytes: int


@dataclass(frozen=True)
class DeviceTimeline:
    """One device's round: the seconds of its chain, and what it waited at the server."""

    opening_s: Float[np.ndarray, " opening"]
    local_s: Float[np.ndarray, "local_step step"]
    closing_s: Float[np.ndarray, " closing"]
    queue_s: Float[np.ndarray, " local_step"]

    @property
    def delay_s(self) -> float:
        """From the start of the round until this device has closed it [s]."""
        parts = (self.opening_s, self.local_s, self.closing_s, self.queue_s)
        return float(sum(part.sum() for part in parts))


@dataclass(frozen=True)
class RoundTimeline:
    """A simulated round. The slowest device's phases sum to the delay."""

    scheme: Scheme
    work: tuple[DeviceWork, ...]
    devices: tuple[DeviceTimeline, ...]

    @property
    def delay_s(self) -> float:
        """The round ends with its slowest device [s]. Source: SFT eq. (27)."""
        return max(device.delay_s for device in self.devices)

    @property
    def slowest_device(self) -> int:
        """The device that ends the round."""
        return int(np.argmax([device.delay_s for device in self.devices]))

    def phase_seconds(self, device: int) -> dict[Phase, float]:
        """Seconds that `device` spends in each phase; they sum to its delay."""
        line = self.devices[device]
        total = dict.fromkeys(Phase, 0.0)
        total[Phase.SERVER_QUEUE] = float(line.queue_s.sum())
        for step, seconds in zip(self.scheme.opening, line.opening_s, strict=True):
            total[step.phase] += float(seconds)
        for column, step in enumerate(self.scheme.local):
            total[step.phase] += float(line.local_s[:, column].sum())
        for step, seconds in zip(self.scheme.closing, line.closing_s, strict=True):
            total[step.phase] += float(seconds)
        return total

    def events(self) -> Iterator[Event]:
        """Every step of every device, device by device, in its order; waits of 0 s are left out."""
        for device in range(len(self.devices)):
            yield from self._device_events(device)

    def _device_events(self, device: int) -> Iterator[Event]:
        now_s = 0.0
        for local_step, phase, seconds, size in self._spans(device):
            yield Event(device, local_step, phase, now_s, now_s + seconds, size)
            now_s += seconds

    def _spans(self, device: int) -> Iterator[tuple[int | None, Phase, float, int]]:
        """A device's steps in order: local step (or None), phase, seconds, bytes."""
        line, work = self.devices[device], self.work[device]
        for step, seconds in zip(self.scheme.opening, line.opening_s, strict=True):
            yield None, step.phase, float(seconds), int(work.payload_bytes(step)[0])
        sizes = [work.payload_bytes(step) for step in self.scheme.local]
        for k in range(work.local_steps):
            for column, step in enumerate(self.scheme.local):
                if step.place is Place.SERVER and line.queue_s[k] > 0:
                    yield k, Phase.SERVER_QUEUE, float(line.queue_s[k]), 0
                yield k, step.phase, float(line.local_s[k, column]), int(sizes[column][k])
        for step, seconds in zip(self.scheme.closing, line.closing_s, strict=True):
            yield None, step.phase, float(seconds), int(work.payload_bytes(step)[0])


def simulate(scheme: Scheme, work: Sequence[DeviceWork]) -> RoundTimeline:
    """Play one round of `scheme` with each device's `work`.

    Raises ConfigError without devices, for a scheme that visits the server more than once in a
    local step, or for work that does not fit the scheme.
    Source: SFT eqs. (19) to (27), the server working in order of arrival (Section IV-A).
    """
    if not work:
        raise ConfigError("a round needs at least one device")
    chains = [chain_seconds(scheme, device) for device in work]
    visits = [column for column, step in enumerate(scheme.local) if step.place is Place.SERVER]
    if len(visits) > 1:
        raise ConfigError(f"scheme {scheme.name}: at most one server step in a local step")
    queues = (
        _server_queue(chains, visits[0])
        if visits
        else [np.zeros(local.shape[0]) for _, local, _ in chains]
    )
    lines = tuple(
        DeviceTimeline(opening, local, closing, queue)
        for (opening, local, closing), queue in zip(chains, queues, strict=True)
    )
    return RoundTimeline(scheme, tuple(work), lines)


def _server_queue(
    chains: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], visit: int
) -> list[Float[np.ndarray, " local_step"]]:
    """Seconds that each device waits at the server in each local step (FIFO by arrival)."""
    before = [local[:, :visit].sum(axis=1) for _, local, _ in chains]
    service = [local[:, visit] for _, local, _ in chains]
    after = [local[:, visit + 1 :].sum(axis=1) for _, local, _ in chains]
    queues = [np.zeros(len(own)) for own in service]
    heap = [
        (float(opening.sum() + before[n][0]), n, 0)
        for n, (opening, _, _) in enumerate(chains)
        if len(service[n])
    ]
    heapq.heapify(heap)
    free_s = 0.0
    while heap:
        arrival_s, n, k = heap[0]
        start_s = max(arrival_s, free_s)
        queues[n][k] = start_s - arrival_s
        free_s = start_s + float(service[n][k])
        if k + 1 < len(service[n]):
            next_s = free_s + float(after[n][k] + before[n][k + 1])
            heapq.heapreplace(heap, (next_s, n, k + 1))
        else:
            heapq.heappop(heap)
    return queues
