"""The three things that run: a device part, a server part, the whole model."""

from collections.abc import Mapping, Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from cutlayer.model.layout import Layout


@final
class DevicePart:
    """Embedding and blocks 1..cut.

    inputs: {"pixel_values": [batch, 3, side, side]} or {"input_ids": [batch, token],
    "attention_mask": [batch, token]} (mask optional: nothing padded; always right padded; a group
    of devices with different lengths is padded to the longest).
    """

    layout: Layout
    cut: int
    base_parameters: int
    base_bytes: int

    def initial_row(self, seed: int) -> Float[Tensor, "parameter"]:
        """Values at round 0; each slot's depend on (seed, slot name) alone, not on the cut."""
        raise NotImplementedError

    def forward(
        self, rows: Float[Tensor, "group parameter"], sizes: Sequence[int], inputs: Mapping[str, Tensor]
    ) -> Float[Tensor, "batch token width"]:
        """The activation of the batch, whose first sizes[0] samples belong to rows[0] and so on."""
        raise NotImplementedError


@final
class ServerPart:
    """Blocks cut+1..L, final norm and head."""

    layout: Layout
    cut: int
    base_parameters: int
    base_bytes: int

    def initial_row(self, seed: int) -> Float[Tensor, "parameter"]:
        raise NotImplementedError

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        activation: Float[Tensor, "batch token width"],
        lengths: Sequence[int] | None,
    ) -> Float[Tensor, "batch *rest"]:
        """Logits [batch, class] or [batch, token, vocabulary]. lengths: real tokens of each sample
        (None: all; always None for images)."""
        raise NotImplementedError


@final
class WholeModel:
    """The unsplit model with the same adapters."""

    layout: Layout
    base_parameters: int
    base_bytes: int

    def initial_row(self, seed: int) -> Float[Tensor, "parameter"]:
        raise NotImplementedError

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        inputs: Mapping[str, Tensor],
        lengths: Sequence[int] | None,
    ) -> Float[Tensor, "batch *rest"]:
        raise NotImplementedError
