"""How good the global adapters are: the test split through both parts, uncompressed.

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

from cutlayer.data.samples import Batch
from cutlayer.model.tasks import next_tokens
from cutlayer.spec import IGNORED_LABEL
from cutlayer.training.exchange import group_inputs
from cutlayer.training.state import RunState, ServerSide, Training

_MOST_SAMPLES = 64
_MOST_LOGITS = 2**25  # 128 MiB


@dataclass(frozen=True)
class Evaluation:
    """Mean loss [nat] over samples (tokens for language modelling), and the fraction right."""

    loss: float
    accuracy: float

    def metric(self, task: str) -> dict[str, Any]:
        """The figure to report: `accuracy`, or `perplexity` (e^loss) of a language model."""
        if task == "causal-lm":
            return {"perplexity": math.exp(min(self.loss, 700.0))}
        return {"accuracy": self.accuracy}


@torch.no_grad()
def evaluate(training: Training, server: ServerSide, state: RunState) -> Evaluation:
    """Run the test split through device part and server part with the global adapters."""
    loss, right, counted = 0.0, 0, 0
    step = min(training.micro_batch_samples, _MOST_SAMPLES)
    for first in range(0, len(server.test), step):
        indices = np.arange(first, min(first + step, len(server.test)))
        batch = server.batches.make(server.test, indices)
        for logits, labels in _predictions(training, server, state, batch):
            loss += float(
                functional.cross_entropy(
                    logits, labels.long(), ignore_index=IGNORED_LABEL, reduction="sum"
                )
            )
            right += int((logits.argmax(-1) == labels).sum())
            counted += int((labels != IGNORED_LABEL).sum())
    return Evaluation(loss / counted, right / counted)


def _predictions(
    training: Training, server: ServerSide, state: RunState, batch: Batch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [row, class] of the batch's samples or, a few at a time, tokens; with the labels."""
    group, labels = group_inputs([batch]), torch.from_numpy(batch.labels)
    activation = server.device_part.forward(
        state.device.row[None], group.sizes, group.inputs
    ).float()
    part, row = server.part, state.server.row
    if training.task != "causal-lm":
        yield part.forward(row[None], group.sizes, activation, group.lengths).float(), labels
        return
    most = max(1, _MOST_LOGITS // training.classes)
    wanted = torch.split(next_tokens(labels).flatten(), most)
    for logits, own in zip(
        part.token_logits(row, activation, group.lengths, most), wanted, strict=True
    ):
        yield logits.float(), own
