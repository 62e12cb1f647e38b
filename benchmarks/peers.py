"""What a peer of the codec is; `line_up.py` has them all.

Each peer is what somebody would otherwise send at the cut: a general compressor, a block-wise
number format, or Top-K with indices, from its published description. Peers get what favours them:
contexts are made once, one thread, their fast settings, no packet, no checksum, no lengths, and the
product's own C loops where they start from the paper's symbols.
"""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float32

Message = tuple[bytes | np.ndarray, ...]


class Peer(ABC):
    """A map from a tensor to buffers and back. What is not in the buffers both ends know."""

    name: str

    @abstractmethod
    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        """The buffers that would be sent, one after another."""

    @abstractmethod
    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        """The tensor, or what is left of it."""


def message_bytes(message: Message) -> int:
    """The length [bytes] of all buffers; nothing is charged for keeping them apart."""
    return sum(len(part) if isinstance(part, bytes) else part.nbytes for part in message)
