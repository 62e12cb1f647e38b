"""Learning rates by local step, row-wise optimisers, and aggregation of rows."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar, final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cutlayer.errors import ModelError, others_code, quoted
from cutlayer.model.lora import RowLayout
from cutlayer.model.placement import HOST, to_device

# Learning rates by local step. A device's steps are counted over the whole run: local step `step`
# (0, 1, ...) of round t (1, 2, ...) is number `(t - 1) local_steps + step` of its own
# `rounds local_steps`. Where devices differ in local steps, each goes through the whole schedule.


class Schedule(ABC):
    """What a learning rate is multiplied by, at every local step of a device."""

    @abstractmethod
    def factor(self, round_number: int, step: int, local_steps: int) -> float:
        """At local step `step` (0, 1, ...) of round `round_number` (1, 2, ...), of a device that
        takes `local_steps` a round."""


@final
@dataclass(frozen=True)
class RoundDecay(Schedule):
    """`decay^(t - 1)` throughout round t."""

    decay: float

    def factor(self, round_number: int, step: int, local_steps: int) -> float:
        return self.decay ** (round_number - 1)


@final
@dataclass(frozen=True)
class WarmUp(Schedule):
    """From 0 up in `warmup_steps`, at step n by `n / warmup_steps`; then 1."""

    warmup_steps: int = 0

    def factor(self, round_number: int, step: int, local_steps: int) -> float:
        number = (round_number - 1) * local_steps + step
        return number / self.warmup_steps if number < self.warmup_steps else 1.0


@final
@dataclass(frozen=True)
class WarmUpDown(Schedule):
    """From 0 up in `warmup_steps`, then down to `end_fraction`, which is where the step after the
    last of `rounds` would be: in a straight line, or by half a period of a cosine.

    As `get_linear_schedule_with_warmup` and `get_cosine_with_min_lr_schedule_with_warmup` of
    transformers. Source for the cosine: SGDR (arXiv 1608.03983) eq. (5), one period.
    """

    rounds: int
    cosine: bool
    warmup_steps: int = 0
    end_fraction: float = 0.0

    def factor(self, round_number: int, step: int, local_steps: int) -> float:
        number, total = (round_number - 1) * local_steps + step, self.rounds * local_steps
        if number < self.warmup_steps:
            return number / self.warmup_steps
        done = min(1.0, (number - self.warmup_steps) / max(1, total - self.warmup_steps))
        left = 0.5 * (1.0 + math.cos(math.pi * done)) if self.cosine else 1.0 - done
        return self.end_fraction + (1.0 - self.end_fraction) * left


# Row-wise optimisers: each row of a bank steps on its own, as if it had its own optimiser.
#
# Knows what is in a row as little as torch does. Rows and state go in, new ones come out.


class Optimizer(ABC):
    """An update rule for rows.

    Its state is a mapping from name to tensor whose first axis is the row, so that a bank's state
    is gathered, stored and averaged like the rows themselves. It is where the rows are, but for
    what is a number a row, which is on the host.
    """

    @property
    @abstractmethod
    def state_names(self) -> tuple[str, ...]:
        """The keys of the state."""

    @abstractmethod
    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """The state of rows that have not stepped yet."""

    @abstractmethod
    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]:
        """Rows and state after one step, in new tensors."""

    @property
    def most_move(self) -> float:
        """How many learning rates a step may move a value, whatever the gradients, weight decay
        apart; infinite where there is no such bound."""
        return math.inf


@final
@dataclass(frozen=True)
class Sgd(Optimizer):
    """Gradient descent as `torch.optim.SGD`: `v = momentum v + g + weight_decay w; w -= lr v`."""

    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def state_names(self) -> tuple[str, ...]:
        """`velocity`, with momentum."""
        return ("velocity",) if self.momentum else ()

    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """Velocity zero."""
        return {name: torch.zeros_like(rows, requires_grad=False) for name in self.state_names}

    @torch.no_grad()
    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]:
        change = grads.add(rows, alpha=self.weight_decay) if self.weight_decay else grads
        if not self.momentum:
            return rows.sub(change, alpha=learning_rate), {}
        velocity = (state["velocity"] * self.momentum).add_(change)
        return rows.sub(velocity, alpha=learning_rate), {"velocity": velocity}


@final
@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay as `torch.optim.AdamW`; each row counts its own steps.

    Source: Decoupled weight decay regularization (arXiv 1711.05101), algorithm 2.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    @property
    def state_names(self) -> tuple[str, ...]:
        """`steps` [group], on the host, `mean` and `square` [group, parameter]."""
        return ("steps", "mean", "square")

    @property
    def most_move(self) -> float:
        """By Cauchy and Schwarz `|mean| <= (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2))
        sqrt(square)`: 7.3 by default. The corrections make it no more."""
        beta1, beta2 = self.betas
        if beta2 >= 1 or beta1**2 >= beta2:
            return math.inf
        return (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))

    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """All zero."""
        return {
            "steps": torch.zeros(rows.shape[0], dtype=torch.int64),
            "mean": torch.zeros_like(rows, requires_grad=False),
            "square": torch.zeros_like(rows, requires_grad=False),
        }

    @torch.no_grad()
    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]:
        beta1, beta2 = self.betas
        steps = state["steps"] + 1
        mean = torch.lerp(state["mean"], grads, 1 - beta1)
        square = (state["square"] * beta2).addcmul_(grads, grads, value=1 - beta2)
        # the corrections in double precision, as torch has them as Python numbers: on the host,
        # since not every device has such numbers
        correction1 = 1 - beta1 ** steps.double().unsqueeze(1)
        correction2 = 1 - beta2 ** steps.double().unsqueeze(1)
        root2, rate = (
            to_device(each.to(rows.dtype), rows.device)
            for each in (correction2.sqrt(), learning_rate / correction1)
        )
        scale = square.sqrt().div_(root2).add_(self.eps)
        change = (mean / scale).mul_(rate)
        updated = rows * (1 - learning_rate * self.weight_decay)
        return updated.sub_(change), {"steps": steps, "mean": mean, "square": square}


@final
@dataclass(frozen=True)
class Clipped(Optimizer):
    """Another rule, with each row's gradient scaled to a norm of `most` where it is longer, as
    `torch.nn.utils.clip_grad_norm_` does: by `most / (norm + 1e-6)`.

    A row is what one device trains in one part of the model, so that the norm is this part's: the
    other one's gradient is at the other end of the link.
    """

    rule: Optimizer
    most: float

    @property
    def state_names(self) -> tuple[str, ...]:
        """Those of the rule."""
        return self.rule.state_names

    @property
    def most_move(self) -> float:
        """Of the rule; of gradient descent without weight decay the norm that is left."""
        rule = self.rule
        if isinstance(rule, Sgd) and not rule.weight_decay and rule.momentum < 1:
            return self.most / (1 - rule.momentum)
        return rule.most_move

    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """As the rule."""
        return self.rule.init(rows)

    @torch.no_grad()
    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]:
        # row by row: a sum of several rows at a time may be in another order than of one
        norms = torch.stack([torch.linalg.vector_norm(row) for row in grads])
        scale = (self.most / (norms + 1e-6)).clamp(max=1.0)
        return self.rule.step(rows, grads * scale[:, None], state, learning_rate)


@final
@dataclass(frozen=True)
class HeadRate(Optimizer):
    """Another rule, with the learning rate `ratio` times as high for the last `values` of a row:
    the head's, as a group of parameters of its own."""

    rule: Optimizer
    values: int
    ratio: float

    @property
    def state_names(self) -> tuple[str, ...]:
        """Those of the rule."""
        return self.rule.state_names

    @property
    def most_move(self) -> float:
        """Of the rule, at the higher of both rates."""
        return self.rule.most_move * max(1.0, self.ratio)

    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        """As the rule."""
        return self.rule.init(rows)

    @torch.no_grad()
    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]:
        sizes = [rows.shape[1] - self.values, self.values]
        rates = learning_rate, learning_rate * self.ratio
        # what is a number a row is the same for both
        states: tuple[dict[str, Tensor], ...] = ({}, {})
        for name, value in state.items():
            halves = (value, value) if value.ndim == 1 else torch.split(value, sizes, dim=1)
            for own, half in zip(states, halves, strict=True):
                own[name] = half
        body, head = (
            self.rule.step(*own)
            for own in zip(
                torch.split(rows, sizes, dim=1),
                torch.split(grads, sizes, dim=1),
                states,
                rates,
                strict=True,
            )
        )
        stepped = {
            name: value if value.ndim == 1 else torch.cat([value, head[1][name]], dim=1)
            for name, value in body[1].items()
        }
        return torch.cat([body[0], head[0]], dim=1), stepped


# How the server makes one adapter of those that devices have trained.
#
# Knows rows and weights, not whose they are; `FedAvg` not what is in a row either.


class Aggregation(ABC):
    """What closes a round: the devices' rows into the one that all begin the next round with.

    It is asked once for the device side and once for the server side, with the same weights. An
    aggregation is a value, no call changes it: equal rows and weights give an equal row, or a run
    that is resumed, or played over a network, would end elsewhere.
    """

    @abstractmethod
    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """The merged row, of the rows' type, in a new tensor.

        `rows`: on the host, an adapter a device, in the devices' order; over a network those alone
        that made the round. `weights`: the samples that each has, at least 0. A and B of LoRA lie
        apart in a row, as they are trained.

        Raises ModelError for weights that give no row. One that is not finite ends the run, as a
        round that diverged.
        """

    def of(self, layout: RowLayout) -> "Aggregation":
        """The same for rows of this layout, for one that looks into rows."""
        return self

    def since(self, began: Float[Tensor, " parameter"]) -> "Aggregation":
        """The same for a round that began with this row, for one that looks at updates."""
        return self


def merged(
    aggregation: Aggregation, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
) -> Float[Tensor, " parameter"]:
    """The merged row, where the rows are; they are merged on the host. Raises ModelError for an
    aggregation that gives another thing than one, or makes of finite rows one that is not."""
    place, rows = rows.device, to_device(rows, HOST)
    with others_code(aggregation, "merge"):
        row: object = aggregation.merge(rows, weights)
    name = type(aggregation).__name__
    if not (isinstance(row, Tensor) and row.shape == rows.shape[1:] and row.dtype == rows.dtype):
        given = f"{row.dtype} of {list(row.shape)}" if isinstance(row, Tensor) else quoted(row)
        raise ModelError(
            f"the aggregation {name} merges rows of {rows.shape[1]} values of {rows.dtype} into"
            f" {given}: merge should give one such row"
        )
    if not row.isfinite().all() and rows.isfinite().all():
        raise ModelError(f"the aggregation {name} merges finite rows into one with NaN or infinity")
    return to_device(row, place)


Summand = TypeVar("Summand", float, Tensor)


@final
@dataclass(frozen=True)
class FedAvg(Aggregation):
    """The mean, weighted by samples: `sum_n w_n row_n / sum_n w_n`.

    A and B are averaged each by itself, as published; the mean of the products A B is another
    thing. Many devices are summed up by cohorts of at most `cohort`, wherever those are played.
    Source: SFT eqs. (7), (8) with `w_n = D_n`.
    """

    cohort: int = 50

    def merge(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """Summed in double precision, in device order within a cohort, over these as a tree.

        Raises ModelError unless there is one weight a device, none negative, and one positive.
        """
        if len(weights) != rows.shape[0]:
            raise ModelError(f"{len(weights)} weights for {rows.shape[0]} devices: give one each")
        if min(weights) < 0 or sum(weights) <= 0:
            raise ModelError(
                f"FedAvg weights must be at least 0 and not all 0, not {list(weights)}"
            )
        parts = cohort_places(len(rows), self.cohort)
        sums = [self.sum_of(rows[own], weights[own]) for own in parts]
        return self.of_sums(sums, weights).to(rows.dtype)

    def sum_of(
        self, rows: Float[Tensor, "device parameter"], weights: Sequence[float]
    ) -> Float64[Tensor, " parameter"]:
        """`sum_n w_n row_n` of some of the devices, on the host, in their order."""
        total = torch.zeros(rows.shape[1], dtype=torch.float64)
        for row, weight in zip(to_device(rows, HOST), weights, strict=True):
            total.add_(row, alpha=weight)
        return total

    def of_sums(
        self, sums: Sequence[Float64[Tensor, " parameter"]], weights: Sequence[float]
    ) -> Float[Tensor, " parameter"]:
        """The mean, of the sums of consecutive devices and the weights of all."""
        return (sum_as_tree(sums) / sum(weights)).float()


def cohort_places(devices: int, most: int) -> list[slice]:
    """Consecutive places of so many devices, at most `most` of them each, in equal parts but for
    one device."""
    count = -(-devices // most)
    size, longer = divmod(devices, count)
    ends = [size * n + min(n, longer) for n in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def sum_as_tree(values: Sequence[Summand]) -> Summand:
    """Of neighbours, then of neighbouring sums: in one order, whoever gave which and when."""
    level = list(values)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [one + other for one, other in pairs] + level[len(level) - len(level) % 2 :]
    return level[0]
