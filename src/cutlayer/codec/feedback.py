"""Error feedback: what a packet lost of a sample is added to the sample's next visit.

Wraps any codec; its packets are the wrapped codec's own.

Source: S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory", arXiv:1809.07599.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import Codec, Decoded, Encoded, State, part_of, under
from cutlayer.codec.remember import check_samples
from cutlayer.codec.segments import segments_of


@final
@dataclass(frozen=True)
class ErrorFeedback(Codec):
    """Remembers on the sender, for each sample, what its last packet lost. float32, so memory grows
    by a sample's tensor for each sample seen."""

    inner: Codec

    # not a class variable: a receiver cannot tell it from the wrapped codec
    @property
    def name(self) -> str:  # type: ignore[override]
        """The wrapped codec's."""
        return self.inner.name

    def encode(
        self,
        tensor: Float32[np.ndarray, "..."],
        state: State,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        segments = segments_of(tensor, lengths)
        numbers = check_samples(samples, tensor, "error feedback")
        owed = dict(part_of(state, "lost."))
        wanted = segments.zero_padding(tensor)
        for place, (number, length) in enumerate(zip(numbers, segments.lengths, strict=True)):
            lost = owed.get(number)
            if lost is not None and lost.shape == (length, segments.width):
                wanted[place, :length] += lost
        encoded = self.inner.encode(wanted, part_of(state, "inner."), rng, lengths=lengths)
        mirror = part_of(state, "mirror.")
        decoded = self.inner.decode(encoded.packet, wanted.shape, mirror)
        rest = wanted - decoded.tensor
        for place, (number, length) in enumerate(zip(numbers, segments.lengths, strict=True)):
            owed[number] = rest[place, :length].copy()
        after = {
            **under("inner.", encoded.state),
            **under("mirror.", decoded.state),
            **under("lost.", owed),
        }
        return Encoded(encoded.packet, after)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: State) -> Decoded:
        return self.inner.decode(packet, shape, state)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return self.inner.expected_bytes(shape)
