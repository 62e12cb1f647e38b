"""Row-wise optimisers: each row of a bank steps on its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor


class Optimizer(ABC):
    """Its state is a dict of tensors whose first axis is the row (so it can be gathered, stored)."""

    @property
    @abstractmethod
    def state_names(self) -> tuple[str, ...]: ...

    @abstractmethod
    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]: ...

    @abstractmethod
    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]: ...


@final
@dataclass(frozen=True)
class Sgd(Optimizer):
    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def state_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        raise NotImplementedError

    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]:
        raise NotImplementedError


@final
@dataclass(frozen=True)
class AdamW(Optimizer):
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    @property
    def state_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def init(self, rows: Float[Tensor, "group parameter"]) -> dict[str, Tensor]:
        raise NotImplementedError

    def step(
        self,
        rows: Float[Tensor, "group parameter"],
        grads: Float[Tensor, "group parameter"],
        state: Mapping[str, Tensor],
        learning_rate: float,
    ) -> tuple[Float[Tensor, "group parameter"], dict[str, Tensor]]:
        raise NotImplementedError
