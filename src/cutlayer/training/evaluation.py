"""How good the global adapters are: held-out samples through both parts, uncompressed.

It never holds more than training does: batches are no larger than a device's micro-batch, nothing
is kept for backward, and a language model's logits are there for a few tokens at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cutlayer.data.samples import Batch, Samples
from cutlayer.model.placement import to_device
from cutlayer.model.tasks import next_tokens
from cutlayer.spec import IGNORED_LABEL, MOST_LOGITS, Task
from cutlayer.training.exchange import group_inputs
from cutlayer.training.records import Score
from cutlayer.training.state import RunState, ServerSide, Training

_MOST_SAMPLES = 64


@dataclass(frozen=True)
class Evaluation:
    """Mean loss [nat] over samples (tokens for language modelling), and the fraction right."""

    loss: float
    accuracy: float

    def score(self, task: Task) -> Score:
        """The figure to report: `accuracy`, or `perplexity` (e^loss) of a language model."""
        if task == "causal-lm":
            return Score("perplexity", math.exp(min(self.loss, 700.0)))
        return Score("accuracy", self.accuracy)

    def figures(self, task: Task) -> dict[str, Any]:
        """As a round's record has them."""
        score = self.score(task)
        return {score.measure: score.value, "eval_loss": self.loss}


@torch.no_grad()
def evaluate(
    training: Training, server: ServerSide, state: RunState, samples: Samples | None = None
) -> Evaluation:
    """Run held-out samples (None: those that rounds are evaluated on) through device part and
    server part with the global adapters."""
    samples = server.evaluated if samples is None else samples
    below, above = server.device_part.adapted.device, server.part.adapted.device
    rows = to_device(state.device.row, below), to_device(state.server.row, above)
    losses, right, counted = [], [], 0  # tensors: who reads one waits for it
    step = min(training.micro_batch_samples, _MOST_SAMPLES)
    for first in range(0, len(samples), step):
        indices = np.arange(first, min(first + step, len(samples)))
        batch = server.batches.make(samples, indices)
        for logits, labels in _predictions(training, server, rows, batch):
            counted += int((labels != IGNORED_LABEL).sum())
            labels = to_device(labels.long(), logits.device)
            losses.append(
                functional.cross_entropy(
                    logits, labels, ignore_index=IGNORED_LABEL, reduction="sum"
                )
            )
            right.append((logits.argmax(-1) == labels).sum())
    loss = 0.0
    for each in torch.stack(losses).cpu().tolist():
        loss += each
    return Evaluation(loss / counted, int(torch.stack(right).sum()) / counted)


def _predictions(
    training: Training, server: ServerSide, rows: tuple[Tensor, Tensor], batch: Batch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [row, class] of the batch's samples or, a few at a time, tokens; with the labels,
    which are on the host. `rows`: of device part and server part."""
    group, labels = group_inputs([batch]), torch.from_numpy(batch.labels)
    part, (below, row) = server.part, rows
    activation = server.device_part.forward(below[None], group.sizes, group.inputs).float()
    if training.task != "causal-lm":
        yield part.forward(row[None], group.sizes, activation, group.lengths).float(), labels
        return
    most = max(1, MOST_LOGITS // training.classes)
    wanted = torch.split(next_tokens(labels).flatten(), most)
    for logits, own in zip(
        part.token_logits(row, activation, group.lengths, most, group.documents),
        wanted,
        strict=True,
    ):
        yield logits.float(), own
