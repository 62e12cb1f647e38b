"""What one round cost, as it is played: FLOPs and bytes, by device, phase and payload.

The bytes are the lengths of packets that were made. Knows no rates: the timeline adds them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from cutlayer.rounds.schemes import Phase, Place, Scheme, Step
from cutlayer.rounds.work import DeviceRates, DeviceWork


@dataclass(frozen=True)
class Sent:
    """One payload's length, and what it would have been as plain float32."""

    payload_bytes: int
    uncompressed_bytes: int


@final
class RoundCosts:
    """Mutable for the length of a round; read it when the round has closed."""

    def __init__(self, scheme: Scheme, local_steps: tuple[int, ...], micro_batches: int) -> None:
        self._scheme = scheme
        self._local_steps = local_steps
        self._micro_batches = micro_batches
        self._amounts: list[dict[Phase, list[float]]] = [defaultdict(list) for _ in local_steps]
        self._by_place: dict[Place, list[int]] = defaultdict(lambda: [0, 0])
        self._by_payload: dict[str, int] = defaultdict(int)

    def compute(self, device: int, step: Step, flops: float) -> None:
        """Enter one computation."""
        self._amounts[device][step.phase].append(flops)

    def send(self, device: int, step: Step, payloads: Mapping[str, Sent]) -> None:
        """Enter one transmission by or to one device, made of named payloads."""
        size = sum(sent.payload_bytes for sent in payloads.values())
        self._amounts[device][step.phase].append(size)
        self._count(step, payloads)

    def broadcast(self, step: Step, payloads: Mapping[str, Sent], devices: Iterable[int]) -> None:
        """Enter one transmission that `devices` hear: on the air once, waited for by each."""
        size = sum(sent.payload_bytes for sent in payloads.values())
        for device in devices:
            self._amounts[device][step.phase].append(size)
        self._count(step, payloads)

    def nothing(self, device: int) -> None:
        """Enter the local steps of a micro-batch without samples."""
        for step in self._scheme.local:
            self._amounts[device][step.phase].append(0)

    def _count(self, step: Step, payloads: Mapping[str, Sent]) -> None:
        for name, sent in payloads.items():
            self._by_payload[name] += sent.payload_bytes
            self._by_place[step.place][0] += sent.payload_bytes
            self._by_place[step.place][1] += sent.uncompressed_bytes

    def work(self, device: int, rates: DeviceRates, in_flight: int | None) -> DeviceWork:
        """The round's amounts of one device, for the timeline."""
        amounts = {
            phase: np.asarray(values, dtype=np.float64)
            for phase, values in self._amounts[device].items()
        }
        steps = self._local_steps[device]
        return DeviceWork(amounts, rates, steps, self._micro_batches, in_flight)

    def byte_counts(self) -> dict[str, int]:
        """Bytes on the air each way, and what they would have been as plain float32."""
        up = self._by_place[Place.UPLINK]
        down = self._by_place[Place.DOWNLINK]
        broadcast = self._by_place[Place.BROADCAST]
        return {
            "uplink_bytes": up[0],
            "downlink_bytes": down[0] + broadcast[0],
            "uncompressed_uplink_bytes": up[1],
            "uncompressed_downlink_bytes": down[1] + broadcast[1],
        }

    def bytes_by_payload(self) -> dict[str, int]:
        """Bytes on the air by what they carry."""
        return dict(self._by_payload)
