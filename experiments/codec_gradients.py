"""How near to the true gradients do the codec's ideas come, at fixed weights?

A screen before any training: after one round without a codec, a basis is learned from some
mini-batches, and others are coded at equal bits in different ways. Of each way: the cosine between
the server's adapter gradient from decoded activations and the true one, the same of the device's
adapter gradient that the server then sends back, and how much the loss grows. Bits are those of the
two-way coder; the basis is exact and costs nothing here, so this is what a long stream comes to.

    python experiments/codec_gradients.py --task minilm-glosses

Wall time: one to three minutes of one core a task. Expected numbers: the committed
`codec_gradients.md`; there, SmolLM2 was screened with `--bits 0.7` alone.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

import gain_kept
import numpy as np
import torch
from torch import Tensor

from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.quantisers import Quantised, RelativeStep, TokenRows
from cutlayer.codec.two_way import TwoWay
from cutlayer.spec import IGNORED_LABEL
from cutlayer.training.exchange import group_inputs, micro_batches
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.server_batch import server_pass, stack
from cutlayer.training.state import RunState, Setup

KERNELS = load_kernels()
ROWS_PER_COLUMN, TESTED = 4, 2
BITS = (0.4, 0.7, 1.0)
HALVINGS = 12


@dataclass(frozen=True, eq=False)
class Packet:
    """A mini-batch of one device at the cut, with its true gradients."""

    setup: Setup
    server_row: Tensor
    device_row: Tensor
    activation: Tensor
    labels: Tensor
    lengths: tuple[int, ...] | None
    sizes: tuple[int, ...]

    @property
    def rows(self) -> np.ndarray:
        """The activation of tokens that count [row, width]."""
        found: np.ndarray = self.activation.detach()[self._counts()].numpy()
        return found.astype(np.float64)

    def with_rows(self, rows: np.ndarray) -> Tensor:
        """The activation with other values for the tokens that count."""
        tensor = torch.zeros_like(self.activation.detach())
        tensor[self._counts()] = torch.from_numpy(rows.astype(np.float32))
        return tensor

    def _counts(self) -> Tensor:
        batch, tokens, _ = self.activation.shape
        lengths = self.lengths or (tokens,) * batch
        return torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]

    def gradients(self, activation: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
        """Of what is computed from this activation: the loss [nat], the gradients at the cut, of
        the server's adapter and of the device's."""
        row = self.server_row.detach().clone().requires_grad_()
        part = self.setup.server.part
        passed = server_pass(
            part, row, self.sizes, activation, self.lengths, self.labels, [1.0] * len(self.sizes)
        )
        assert row.grad is not None
        (device,) = torch.autograd.grad(
            self.activation, self.device_row, passed.gradient, retain_graph=True
        )
        return float(passed.losses.sum()), passed.gradient, row.grad, device


def packets(setup: Setup, state: RunState) -> Iterator[Packet]:
    """Mini-batches of the rounds after `state`, device by device."""
    for number in range(state.round + 1, 10**6):
        for step in range(setup.devices[0].local_steps):
            for device in setup.devices:
                own = micro_batches(device, number, step, 1)[0]
                assert own is not None
                group = group_inputs([own.batch])
                row = state.device.row[None].clone().requires_grad_()
                activation = setup.server.device_part.forward(row, group.sizes, group.inputs)
                labels = stack([own.batch.labels], fill=IGNORED_LABEL)
                yield Packet(
                    setup,
                    state.server.row[None],
                    row,
                    activation,
                    labels,
                    group.lengths,
                    group.sizes,
                )


@dataclass(frozen=True, eq=False)
class Way:
    """A linear transform there and back, about a mean, and whether energy is kept."""

    name: str
    there: np.ndarray
    back: np.ndarray
    keeps_energy: bool

    def decoded(self, rows: np.ndarray, mean_row: np.ndarray, bits: float) -> np.ndarray:
        """The rows as they are decoded at so many bits per value."""
        values = np.ascontiguousarray((rows - mean_row) @ self.there, dtype=np.float32)
        low, high = -8.0, 6.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self._bits(self._coded(values, middle)) > bits * rows.size:
                low = middle
            else:
                high = middle
        quantiser, sizes = DeadZone(RelativeStep(1.0)), np.array([values.size])
        back = quantiser.dequantise(self._coded(values, high), sizes, KERNELS)
        restored: np.ndarray = back.astype(np.float64) @ self.back + mean_row
        return restored

    def _coded(self, values: np.ndarray, octaves: float) -> Quantised:
        ratio = math.exp(octaves)
        quantiser = DeadZone(RelativeStep(ratio), keeps_energy=self.keeps_energy)
        rows = TokenRows(values, None, np.array([values.size]), ratio)
        return quantiser.quantise(rows, KERNELS, np.random.default_rng(0))

    @staticmethod
    def _bits(quantised: Quantised) -> int:
        return 8 * sum(map(len, TwoWay().encode(quantised.symbols, KERNELS).values()))


def ways(covariance: np.ndarray, gradients: np.ndarray) -> Iterator[Way]:
    """What is tried. `gradients`: their second moments at the cut."""
    width = len(covariance)
    identity = np.eye(width)
    basis = _eigenvectors(covariance)
    third = basis[:, : width // 3]
    # distances in which an error counts by what the loss makes of it
    energies, vectors = np.linalg.eigh(gradients / np.trace(gradients) * width + 0.5 * identity)
    root = (vectors * np.sqrt(energies)) @ vectors.T
    inverse = (vectors / np.sqrt(energies)) @ vectors.T
    weighted = _eigenvectors(root @ covariance @ root)
    for keeps in (False, True):
        yield Way("no basis", identity, identity, keeps)
        yield Way("a third of the basis", third, third.T, keeps)
        yield Way("all of the basis", basis, basis.T, keeps)
        yield Way("basis weighted by gradients", root @ weighted, weighted.T @ inverse, keeps)


def rows_of(some: Sequence[Packet]) -> list[np.ndarray]:
    """The rows of each."""
    return [packet.rows for packet in some]


def _eigenvectors(moments: np.ndarray) -> np.ndarray:
    """Largest first."""
    vectors: np.ndarray = np.linalg.eigh(moments)[1][:, ::-1]
    return vectors


def screened(task: str, at_bits: Sequence[float]) -> Iterator[str]:
    """Lines of a Markdown table."""
    setup = gain_kept.prepared(task, 0).setup
    state = Round(setup, initial_state(setup)).play().state
    source = packets(setup, state)
    learned = [next(source)]
    while sum(map(len, rows_of(learned))) < ROWS_PER_COLUMN * learned[0].rows.shape[1]:
        learned.append(next(source))
    rows = np.concatenate(rows_of(learned))
    sent = [packet.gradients(packet.activation.detach())[1] for packet in learned]
    gradients = torch.cat([each.flatten(0, 1) for each in sent]).double().numpy()
    del learned
    tested = [next(source) for _ in range(TESTED)]
    true = [packet.gradients(packet.activation.detach()) for packet in tested]
    yield f"## {task}\n"
    yield "| way | decodes to | bits | server's gradient | device's gradient | loss grows by |"
    yield "|---|---|---|---|---|---|"
    for way in ways(np.cov(rows.T, bias=True), gradients.T @ gradients):
        for bits in at_bits:
            found = [
                packet.gradients(packet.with_rows(way.decoded(packet.rows, rows.mean(0), bits)))
                for packet in tested
            ]
            server, device = (
                mean(_cosine(one[at], two[at]) for one, two in zip(found, true, strict=True))
                for at in (2, 3)
            )
            more = mean(one[0] - two[0] for one, two in zip(found, true, strict=True))
            what = "its energy" if way.keeps_energy else "cells' means"
            yield f"| {way.name} | {what} | {bits} | {server:.3f} | {device:.3f} | {more:+.3f} |"


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=gain_kept.TASKS, action="append")
    torch.set_num_threads(1)
    parser.add_argument("--bits", type=float, action="append")
    given = parser.parse_args()
    for task in given.task or list(gain_kept.TASKS):
        with gain_kept.arithmetic_of(task):
            for line in screened(task, given.bits or BITS):
                print(line, flush=True)


if __name__ == "__main__":
    main()
