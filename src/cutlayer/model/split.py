"""The three things that run: a device part, a server part, and the whole model.

Each takes the rows of a group of devices and the samples of all of them in device order. One pass
at a time; backward may follow at any time. What a part holds (rows, layout, weights) is its
`adapted` model. Knows no files and no loss.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NoReturn, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.hollow import CutReachedError, Injection, answering
from cutlayer.model.inputs import real_inputs, stand_in_inputs
from cutlayer.spec import Task


@final
class DevicePart:
    """The embedding and blocks 1..cut of a model."""

    def __init__(self, adapted: AdaptedModel, task: Task, cut: int) -> None:
        self.task = task
        self.cut = cut
        self.adapted = adapted

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        inputs: Mapping[str, Tensor],
        *,
        checkpoint: bool = False,
    ) -> Float[Tensor, "batch token width"]:
        """The activation at the cut; the first `sizes[0]` samples are of the device in `rows[0]`.

        `checkpoint`: hold each block's input for backward, not what is computed in it.

        `inputs`: `pixel_values` [batch, channel, height, width], of any size that the patch
        divides; or `input_ids` [batch, token] with `attention_mask` unless nothing is padded. Text
        is padded on the right, in a group to the longest of all its devices.
        Raises ModelError for inputs or sizes that do not fit.
        """
        model = self.adapted.model
        given = real_inputs(model, self.task, inputs, None)
        batch = next(iter(inputs.values())).shape[0]
        with self.adapted.using(rows, sizes, batch, checkpoint=checkpoint):
            try:
                model(**given)
            except CutReachedError as cut:
                return cut.activation
        raise RuntimeError("the forward pass ended without reaching the cut layer")


@final
class ServerPart:
    """Blocks cut+1..L, final norm and head of a model."""

    def __init__(self, adapted: AdaptedModel, task: Task, cut: int, injection: Injection) -> None:
        self.task = task
        self.cut = cut
        self.adapted = adapted
        self._injection = injection

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        activation: Float[Tensor, "batch token width"],
        lengths: Sequence[int] | None,
    ) -> Float[Tensor, "batch *rest"]:
        """Logits [batch, class], or [batch, token, vocabulary] of a language model.

        `lengths`: real tokens of each sample (None: nothing is padded, or images). The activation
        may require a gradient, from which the device's backward continues.
        Raises ModelError for lengths or sizes that do not fit.
        """
        model = self.adapted.model
        activation = activation.to(model.dtype)  # what crosses the cut is float32
        given = stand_in_inputs(model.config, self.task, activation, lengths)
        with (
            self.adapted.using(rows, sizes, activation.shape[0]),
            self._injection.of(activation),
        ):
            logits: Tensor = model(**given).logits
        return logits

    def token_logits(
        self,
        row: Float[Tensor, "parameter"],
        activation: Float[Tensor, "batch token width"],
        lengths: Sequence[int] | None,
        most: int,
    ) -> Iterator[Float[Tensor, "token vocabulary"]]:
        """A language model's logits for one device, sample after sample, `most` tokens at a time.

        What the model does after its blocks runs once for each piece, so all logits are never
        there together. Equal to those of `forward` but for rounding. Raises as it does.
        """
        head: nn.Module = self.adapted.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        run: Callable[[Tensor], Tensor] = head.forward
        with answering(head, _stop):
            try:
                self.forward(row[None], [activation.shape[0]], activation, lengths)
            except CutReachedError as reached:
                hidden = reached.activation
        one = activation.new_zeros(1, 1, activation.shape[2])
        for piece in torch.split(hidden.flatten(0, 1), most):
            with (
                self.adapted.without_blocks(),
                answering(head, partial(_instead, run, piece[None])),
            ):
                logits = self.forward(row[None], [1], one, None)
            yield logits[0]


def _instead(run: Callable[[Tensor], Tensor], given: Tensor, hidden: Tensor) -> Tensor:
    """What a head gives for other hidden states than its own."""
    return run(given)


def _stop(hidden: Tensor) -> NoReturn:
    raise CutReachedError(hidden)


@final
class WholeModel:
    """The unsplit model with the same adapters: a reference, and a centralised run."""

    def __init__(self, adapted: AdaptedModel, task: Task) -> None:
        self.task = task
        self.adapted = adapted

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        inputs: Mapping[str, Tensor],
        lengths: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch *rest"]:
        """Logits as `ServerPart.forward` gives them, from inputs as `DevicePart.forward` takes
        them; `lengths` says what is padded if `inputs` has no `attention_mask`.

        A decoder's classifier takes the last token that is not the padding token, as transformers
        has it; `ServerPart` takes the last of `lengths`. They differ for a text that itself ends
        with the padding token: a run leaves such an end out (`TextBatches.unread`).
        """
        model = self.adapted.model
        given = real_inputs(model, self.task, inputs, lengths)
        batch = next(iter(inputs.values())).shape[0]
        with self.adapted.using(rows, sizes, batch):
            logits: Tensor = model(**given).logits
        return logits
