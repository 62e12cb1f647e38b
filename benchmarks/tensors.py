"""The tensors that codecs are compared on: one for speed, and real ones with their gradients.

Knows where they come from and says so; nothing of codecs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.measure import fidelity
from cutlayer.config.probe import Probe
from cutlayer.train.probe import device_gradient, server_gradient

# a learned basis of the speed tensor's width is there after six packets
SENT = 8

Array = Float32[np.ndarray, "batch token width"]


@dataclass(frozen=True, eq=False)
class Stream:
    """Tensors of one direction in the order in which they are sent; the last one is measured.

    `judge` gives the gradient cosine of a decoded last tensor, None where no model is at hand.
    """

    name: str
    direction: str
    tensors: tuple[Array, ...]
    source: str
    judge: Callable[[Array], float] | None


def speed_stream(shape: tuple[int, int, int], path: Path | None) -> Stream:
    """One tensor of `shape`, sent again and again: a codec that learns has learned at the last."""
    if path is None:
        tensor, source = synthetic(shape), "synthetic, heavy-tailed rows and columns, seed 0"
    else:
        tensor, source = tiled(np.load(path, allow_pickle=False), shape), f"{path.name}, tiled"
    return Stream("speed", "up", (tensor,) * SENT, source, judge=None)


def synthetic(shape: tuple[int, int, int]) -> Array:
    """A tensor whose shares are like those of activations: a few large columns, uneven rows, and
    columns that move together (a decaying spectrum in a random basis)."""
    batch, token, width = shape
    rng = np.random.default_rng(0)
    spectrum = (1.0 + np.arange(width, dtype=np.float32)) ** np.float32(-0.35)
    basis, _ = np.linalg.qr(rng.standard_normal((width, width), dtype=np.float32))
    values = rng.laplace(size=(batch * token, width)).astype(np.float32) * spectrum
    values = values @ (basis.astype(np.float32))
    values *= np.exp(rng.normal(0.0, 0.35, width)).astype(np.float32)
    values *= np.exp(rng.normal(0.0, 0.25, (batch * token, 1))).astype(np.float32)
    values[:, rng.choice(width, 4, replace=False)] *= 8.0
    values += (values.std(0) * rng.normal(0.0, 0.5, width)).astype(np.float32)
    return values.reshape(shape)


def tiled(tensor: np.ndarray, shape: tuple[int, int, int]) -> Array:
    """Real rows repeated along columns and rows until `shape` is full.

    Columns keep their statistics; each copy starts at another row and has a factor of its own, so
    that no compressor finds a repetition.
    """
    rows = tensor.reshape(-1, tensor.shape[-1]).astype(np.float32)
    rng = np.random.default_rng(0)
    out = np.empty((shape[0] * shape[1], shape[2]), dtype=np.float32)
    for left in range(0, out.shape[1], rows.shape[1]):
        for top in range(0, len(out), len(rows)):
            part = out[top : top + len(rows), left : left + rows.shape[1]]
            copy = np.roll(rows, int(rng.integers(len(rows))), axis=0)
            copy *= np.float32(np.exp(rng.normal(0.0, 0.1)))
            part[:] = copy[: part.shape[0], : part.shape[1]]
    return out.reshape(shape)


def real_streams(probe: Probe) -> tuple[Stream, Stream]:
    """The activations that go up and the gradients that come down, judged by the adapters'
    gradients on the other side."""
    last = probe.crossings[-1]
    true_server = _flat(server_gradient(probe.parts, last, last.activation))
    true_device = _flat(device_gradient(probe.parts, last, last.gradient))

    def judge_up(decoded: Array) -> float:
        return fidelity(true_server, _flat(server_gradient(probe.parts, last, decoded))).cosine

    def judge_down(decoded: Array) -> float:
        return fidelity(true_device, _flat(device_gradient(probe.parts, last, decoded))).cosine

    up = tuple(crossing.activation for crossing in probe.crossings)
    down = tuple(crossing.gradient for crossing in probe.crossings)
    return (
        Stream("activation", "up", up, probe.source, judge_up),
        Stream("gradient", "down", down, probe.source, judge_down),
    )


def _flat(gradient: object) -> Float32[np.ndarray, " parameter"]:
    return np.asarray(gradient, dtype=np.float32).reshape(-1)
