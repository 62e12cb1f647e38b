"""constriction's range coder on the paper's symbols, with one model for all of them."""

from typing import final

import constriction
import numpy as np
from jaxtyping import Float32
from paper_symbols import LEVELS, PaperSymbols
from peers import Message, Peer

_REACH = LEVELS + 1


@final
class ConstrictionSymbols(Peer):
    """One categorical model, the symbols' own frequencies, which are sent as 16-bit numbers."""

    name = "constriction (range coder), paper's symbols"

    def __init__(self) -> None:
        self._paper = PaperSymbols()

    def encode(self, tensor: Float32[np.ndarray, "batch token width"]) -> Message:
        symbols, settings = self._paper.quantise(tensor)
        counts = np.bincount(symbols.view(np.uint8), minlength=256)
        shares = np.roll(counts, _REACH)[: 2 * _REACH + 1] / symbols.size
        sent = np.maximum(np.rint(shares * 65535), 1).astype(np.uint16)
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbols.astype(np.int32) + _REACH, _model(sent))
        return encoder.get_compressed(), sent, settings

    def decode(
        self, message: Message, shape: tuple[int, ...]
    ) -> Float32[np.ndarray, "batch token width"]:
        words, sent, settings = message
        decoder = constriction.stream.queue.RangeDecoder(np.asarray(words))
        symbols = decoder.decode(_model(np.asarray(sent)), int(np.prod(shape)))
        return self._paper.dequantise((symbols - _REACH).astype(np.int8), bytes(settings), shape)


def _model(sent: np.ndarray) -> constriction.stream.model.Categorical:
    shares = sent.astype(np.float32)
    return constriction.stream.model.Categorical(shares / shares.sum(), perfect=False)
