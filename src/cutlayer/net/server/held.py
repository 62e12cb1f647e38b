"""What a server that keeps activations holds of each device's samples, and what it asks it for.

A device's samples are known here by their places in its own data, and mini-batches are drawn as the
device draws them. Knows the cache, and no link.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Int

from cutlayer.data.partition import BatchPlan
from cutlayer.errors import PacketError
from cutlayer.net.server.devices import Asks
from cutlayer.net.wire.messages import OwnSamples, Position
from cutlayer.training.activation_cache import ActivationCache, CacheFigures, Coded
from cutlayer.training.exchange import held_micro_batches, pieces_of
from cutlayer.training.server_batch import Served
from cutlayer.training.state import Training


@final
class HeldSamples:
    """`local_steps`: of each device a round."""

    def __init__(
        self, training: Training, local_steps: Sequence[int], cache: ActivationCache
    ) -> None:
        self._training = training
        self._local_steps = tuple(local_steps)
        self._cache = cache
        # of the round in progress
        self._plans: dict[int, BatchPlan] = {}

    def begin_round(self, number: int) -> None:
        """See `ActivationCache`."""
        self._cache.begin_round(number)

    def close_round(self) -> CacheFigures:
        """See `ActivationCache`."""
        return self._cache.close_round()

    def know(self, device: int, samples: OwnSamples) -> None:
        """A device says what it has. Raises PacketError: it had others."""
        self._cache.know(device, samples.count, samples.digest)

    def count(self, device: int) -> int:
        """How many samples a device has; 0: it has never said so."""
        return self._cache.count(device) or 0

    def asks(self, device: int, round_number: int) -> Asks | None:
        """What a device is asked for in a round, as things are; None: of a device that has not said
        what it has, everything."""
        if not self.count(device):
            return None
        bits: list[bool] = []
        known: set[int] = set()
        own: dict[int, int] = {}
        for step in range(self._local_steps[device]):
            samples = self._drawn(device, round_number, step).tolist()
            held = [self._cache.holds(device, sample) for sample in samples]
            bits += held
            if all(mine or sample in known for mine, sample in zip(held, samples, strict=True)):
                own[step] = min(self._training.micro_batches, len(samples))
            known |= set(samples)
        return Asks(np.packbits(bits).tobytes().hex(), own)

    def micro_batch(self, device: int, place: Position) -> tuple[int, ...]:
        """The samples of a micro-batch. Raises PacketError: there is none at that place."""
        pieces = self._pieces(device, place)
        if not place.micro < len(pieces):
            raise PacketError(f"micro-batch {place.micro} of {len(pieces)}")
        return pieces[place.micro]

    def weight(self, device: int, place: Position) -> float:
        """The part of its mini-batch's loss that a micro-batch is, all of it held."""
        pieces = self._pieces(device, place)
        served = [self._cache.rows(device, piece) for piece in pieces]
        parts = held_micro_batches(pieces, [own.targets.labels for own in served])
        return parts[place.micro].weight

    def tokens(self, device: int, place: Position, came: int) -> int:
        """Of the longest sample of a micro-batch, of which what came has so many at most."""
        samples = self.micro_batch(device, place)
        held = [sample for sample in samples if self._cache.holds(device, sample)]
        lengths = self._cache.rows(device, held).lengths if held else ()
        return max((came, *lengths))

    def serve(
        self, device: int, place: Position, samples: tuple[int, ...], came: Served | None
    ) -> Served:
        """A micro-batch, of which these samples `came`. Raises PacketError: others are missing."""
        whole = self.micro_batch(device, place)
        if samples != self._cache.missing(device, whole):
            raise PacketError(f"activations of {len(samples)} samples that were not asked for")
        return self._cache.serve(device, whole, came)

    def add(self, coded: Coded | None, came: Served | None, samples: int) -> None:
        """Hold what came of a micro-batch of so many samples, which has been served."""
        self._cache.hit(samples - (0 if coded is None else len(coded.samples)))
        if coded is not None and came is not None:
            self._cache.add(coded, came)

    def _pieces(self, device: int, place: Position) -> list[tuple[int, ...]]:
        drawn = self._drawn(device, place.round, place.step)
        return pieces_of(drawn, self._training.micro_batches)

    def _drawn(self, device: int, round_number: int, step: int) -> Int[np.ndarray, " row"]:
        """A local step's samples, as `DeviceSide.indices` counts."""
        count = self.count(device)
        if not count:
            raise PacketError("an activation of a device that has not said what it has")
        plan = self._plans.get(device)
        if plan is None or len(plan.samples) != count:
            training = self._training
            plan = BatchPlan(np.arange(count), training.batch_size, training.seed, device)
            self._plans[device] = plan
        return plan.indices((round_number - 1) * self._local_steps[device] + step)
