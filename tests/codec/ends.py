"""The two ends of a codec's stream, and tensors as a transformer makes them."""

import numpy as np

from cutlayer.codec.codec import EMPTY, Codec


class Ends:
    """The sender and the receiver of one stream."""

    def __init__(self, codec: Codec, seed: int = 7) -> None:
        self.codec, self.rng = codec, np.random.default_rng(seed)
        self.sender = self.receiver = EMPTY

    def send(self, tensor, lengths=None, samples=None):
        """The packet and what came out of it."""
        if samples is None and tensor.ndim == 3:
            samples = range(len(tensor))
        encoded = self.codec.encode(tensor, self.sender, self.rng, lengths=lengths, samples=samples)
        decoded = self.codec.decode(encoded.packet, tensor.shape, self.receiver)
        self.sender, self.receiver = encoded.state, decoded.state
        return encoded.packet, decoded


def correlated(shape, seed=0, rank=8, noise=0.05, mean=0.0, directions=99):
    """Rows near a subspace of `rank` dimensions that is the same for every seed."""
    subspace = np.random.default_rng(directions).normal(size=(rank, shape[-1]))
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(*shape[:-1], rank)) @ subspace
    offset = mean * np.random.default_rng(98).normal(size=shape[-1])
    return (rows + offset + noise * rng.normal(size=shape)).astype(np.float32)


def cosine(a, b):
    """Between two tensors, in float64."""
    a, b = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def any_symbols(rows, columns, rng):
    """Integers of a random step, with scales of rows and columns, of which some may be alike, all
    zero or of one sign."""
    spread = rng.choice([0, 0.5, 1.5, 4], 2)
    scales = np.exp(rng.normal(0, spread[0], (rows, 1)) + rng.normal(0, spread[1], columns))
    values = rng.laplace(size=(rows, columns)) * scales * rng.choice([0.02, 0.3, 1, 4, 30, 5000])
    symbols = np.clip(np.trunc(values), -32767, 32767).astype(np.int16)
    chosen = rng.random(columns) < rng.choice([0, 0.4, 1])
    symbols[:, chosen] = abs(symbols[:, chosen]) * rng.choice([-1, 0, 1], chosen.sum())
    symbols[rng.random(rows) < rng.choice([0, 0, 0.6])] = 0
    return np.repeat(symbols[:1], rows, axis=0) if rng.random() < 0.1 else symbols
