"""A codec that also counts what another one would have made of the same tensors.

So that two ways of coding the same symbols are compared on one training. Knows no codec by name.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import Codec, Decoded, Encoded, State, part_of, under

_OWN, _OTHER, _BYTES = "own.", "other.", "other bytes"


@final
@dataclass(frozen=True)
class Beside(Codec):
    """Sends what `codec` makes; the sender's state sums what `other` makes of the same tensors.

    Both start from the same generator state, so codecs that draw alike round alike.
    """

    codec: Codec
    other: Codec
    name: ClassVar[str] = "beside"

    def encode(
        self,
        tensor: Float32[np.ndarray, "..."],
        state: State,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        same_rng = copy.deepcopy(rng)
        own = self.codec.encode(tensor, part_of(state, _OWN), rng, lengths=lengths, samples=samples)
        other = self.other.encode(
            tensor, part_of(state, _OTHER), same_rng, lengths=lengths, samples=samples
        )
        total = other_bytes(state) + len(other.packet)
        after = {**under(_OWN, own.state), **under(_OTHER, other.state), _BYTES: np.array(total)}
        return Encoded(own.packet, after)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: State) -> Decoded:
        return self.codec.decode(packet, shape, state)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return self.codec.expected_bytes(shape)


def other_bytes(state: State) -> int:
    """Bytes that the other codec has made so far, by the sender's state; 0 without one."""
    return int(state[_BYTES]) if _BYTES in state else 0
