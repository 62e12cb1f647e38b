"""How good the global adapters are: the test split through both parts, uncompressed."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from cutlayer.model.loss import group_losses
from cutlayer.spec import IGNORED_LABEL
from cutlayer.train.inputs import group_inputs
from cutlayer.train.setup import Setup
from cutlayer.train.state import RunState

_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Mean loss [nat] over samples (tokens for language modelling), and the fraction right."""

    loss: float
    accuracy: float

    def metric(self, task: str) -> dict[str, float]:
        """The figure to report: `accuracy`, or `perplexity` (e^loss) of a language model."""
        if task == "causal-lm":
            return {"perplexity": math.exp(min(self.loss, 700.0))}
        return {"accuracy": self.accuracy}


@torch.no_grad()
def evaluate(setup: Setup, state: RunState) -> Evaluation:
    """Run the test split through device part and server part with the global adapters."""
    loss, right, counted = 0.0, 0, 0
    for first in range(0, len(setup.test), _BATCH):
        indices = np.arange(first, min(first + _BATCH, len(setup.test)))
        batch = setup.batches.make(setup.test, indices)
        group = group_inputs([batch])
        activation = setup.device_part.forward(state.device.row[None], group.sizes, group.inputs)
        logits = setup.server_part.forward(
            state.server.row[None], group.sizes, activation, group.lengths
        )
        labels = torch.from_numpy(batch.labels)
        if setup.task == "causal-lm":
            predicted, wanted = logits[:, :-1].argmax(-1), labels[:, 1:]
        else:
            predicted, wanted = logits.argmax(-1), labels
        counts = wanted != IGNORED_LABEL
        weight = int(counts.sum())
        loss += float(group_losses(setup.task, logits, labels, group.sizes)[0]) * weight
        right += int((predicted == wanted)[counts].sum())
        counted += weight
    return Evaluation(loss / counted, right / counted)
