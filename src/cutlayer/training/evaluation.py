"""How good adapters are: held-out samples through both parts, uncompressed.

It never holds more than training does: batches are no larger than a device's micro-batch, nothing
is kept for backward, and a language model's logits are there for a few tokens at a time.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn import functional

from cutlayer.data.samples import Batch, Samples
from cutlayer.model.losses import next_tokens
from cutlayer.model.placement import to_device
from cutlayer.spec import IGNORED_LABEL, MOST_LOGITS, Task
from cutlayer.training.exchange import group_inputs
from cutlayer.training.records import ClassFigures, EvaluationDetails, Score
from cutlayer.training.state import DeviceSide, EvaluationRule, RunState, ServerSide, Training

_MOST_SAMPLES = 64
# classes whose confusion is a table: it is written with each evaluation
MOST_CONFUSED = 256


@dataclass(frozen=True)
class DeviceShare:
    """What is known of a device's training samples: how many, and how many of each label (None: not
    known; a language model's label is the document's category)."""

    samples: int
    labels: tuple[int, ...] | None = None


def share_of(device: DeviceSide) -> DeviceShare:
    """Of a device whose samples are here."""
    labels = device.train.labels[device.plan.samples]
    known = labels.size and labels.min() >= 0
    return DeviceShare(device.samples, tuple(np.bincount(labels).tolist()) if known else None)


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Of each class how many samples there are (`support`), how many were taken for it, and how
    many of those were right; `confusion`: how many of each were taken for each (None: there are too
    many classes)."""

    right: Int64[np.ndarray, " class_"]
    support: Int64[np.ndarray, " class_"]
    taken: Int64[np.ndarray, " class_"]
    confusion: Int64[np.ndarray, "class_ class_"] | None

    @staticmethod
    def of(
        labels: Int64[np.ndarray, " sample"], taken: Int64[np.ndarray, " sample"], classes: int
    ) -> "ClassCounts":
        """Of samples with these labels that were taken for these classes."""
        confusion = None
        if classes <= MOST_CONFUSED:
            confusion = np.zeros((classes, classes), np.int64)
            np.add.at(confusion, (labels, taken), 1)
        right, support, found = (
            np.bincount(which, minlength=classes)
            for which in (labels[labels == taken], labels, taken)
        )
        return ClassCounts(right, support, found, confusion)

    @staticmethod
    def together(counts: "Sequence[ClassCounts]") -> "ClassCounts":
        """Of all of these samples."""
        tables = [one.confusion for one in counts if one.confusion is not None]
        return ClassCounts(
            np.sum([one.right for one in counts], axis=0),
            np.sum([one.support for one in counts], axis=0),
            np.sum([one.taken for one in counts], axis=0),
            np.sum(tables, axis=0) if tables else None,
        )

    @property
    def figures(self) -> tuple[ClassFigures, ...]:
        """Precision, recall, F1 and support of each class; 0 where a ratio is of nothing."""
        each = zip(self.right.tolist(), self.support.tolist(), self.taken.tolist(), strict=True)
        return tuple(
            ClassFigures(
                precision=_ratio(right, taken),
                recall=_ratio(right, support),
                f1=_ratio(2 * right, support + taken),
                support=support,
            )
            for right, support, taken in each
        )

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that any sample is of, or was taken for."""
        seen = (self.support + self.taken > 0).tolist()
        scores = [one.f1 for one, known in zip(self.figures, seen, strict=True) if known]
        return sum(scores) / len(scores)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Mean loss [nat] over samples (tokens for language modelling), and the fraction right.

    `classes`: of a classification, what became of the samples of each class.
    `devices`: each device's score on the held-out samples, weighted so that their labels are
    distributed as those of its training samples are: what a test set of its own would measure, as
    is usual in personalised federated learning (empty: not asked for; NaN: nothing is known of the
    device). By its own adapters where each keeps its own; loss and accuracy are then the means over
    devices, by samples.
    """

    loss: float
    accuracy: float
    classes: ClassCounts | None = None
    devices: tuple[float, ...] = ()

    def score(self, task: Task) -> Score:
        """The figure to report: `accuracy`, or `perplexity` (e^loss) of a language model."""
        if task == "causal-lm":
            return Score("perplexity", _perplexity(self.loss))
        return Score("accuracy", self.accuracy)

    def figures(self, task: Task) -> dict[str, Any]:
        """Score and loss, as a round's record has them."""
        score = self.score(task)
        return {score.measure: score.value, "eval_loss": self.loss}

    def details(self, class_names: Sequence[str], number: int) -> EvaluationDetails:
        """All of it, as `evaluation.json` has it of round `number`."""
        counts = self.classes
        if counts is None:
            return EvaluationDetails(round=number, device_scores=self.devices)
        table = () if counts.confusion is None else counts.confusion.tolist()
        return EvaluationDetails(
            round=number,
            macro_f1=counts.macro_f1,
            class_names=tuple(class_names),
            classes=counts.figures,
            confusion=tuple(map(tuple, table)),
            device_scores=self.devices,
        )


def figures_of(evaluation: Evaluation | None, task: Task, rule: EvaluationRule) -> dict[str, Any]:
    """What a round's record has of its evaluation; nothing where there was none."""
    if evaluation is None:
        return {}
    figures = evaluation.figures(task)
    if rule.macro_f1 and evaluation.classes is not None:
        figures["macro_f1"] = evaluation.classes.macro_f1
    return figures | ({"device_scores": evaluation.devices} if evaluation.devices else {})


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def evaluate(
    training: Training,
    server: ServerSide,
    state: RunState,
    samples: Samples | None = None,
    shares: Sequence[DeviceShare] = (),
) -> Evaluation:
    """Run held-out samples (None: those that rounds are evaluated on) through device part and
    server part: with the global adapters, or with those of each device.

    `shares`: what is known of the devices, where each one's score is wanted, or each has its own
    adapters.
    """
    samples = server.evaluated if samples is None else samples
    below, above = state.device.row, state.server.row
    if below.ndim == above.ndim == 1:
        seen = _pass(training, server, (below, above), samples, by_label=bool(shares))
        own = tuple(seen.of(share, training.task)[1] for share in shares)
        return Evaluation(seen.loss, seen.accuracy, seen.classes, own)
    return _personal(training, server, state, samples, shares)


def _personal(
    training: Training,
    server: ServerSide,
    state: RunState,
    samples: Samples,
    shares: Sequence[DeviceShare],
) -> Evaluation:
    """Each device's adapters on all the samples."""
    sides = state.device.row, state.server.row
    count = max(len(side) for side in sides if side.ndim == 2)
    shares = shares or (DeviceShare(1),) * count
    passes = []
    for device in range(count):
        below, above = (side if side.ndim == 1 else side[device] for side in sides)
        passes.append(_pass(training, server, (below, above), samples, by_label=True))
    own = [seen.of(share, training.task) for seen, share in zip(passes, shares, strict=True)]
    if not any(share.samples for share in shares):  # nobody has said anything yet
        shares = (DeviceShare(1),) * count
        own = [seen.of(share, training.task) for seen, share in zip(passes, shares, strict=True)]
    known = [place for place, share in enumerate(shares) if share.samples]
    total = sum(shares[place].samples for place in known)
    loss, accuracy = 0.0, 0.0
    for place in known:
        weight = shares[place].samples / total
        loss += weight * own[place][0]
        accuracy += weight * passes[place].weighted_accuracy(shares[place])
    counts = [seen.classes for seen in passes if seen.classes is not None]
    classes = ClassCounts.together(counts) if counts else None
    return Evaluation(loss, min(accuracy, 1.0), classes, tuple(score for _, score in own))


@dataclass(frozen=True, eq=False)
class _Pass:
    """One model's run over some samples. `label_loss`, `label_count`: loss [nat] and how many
    samples (tokens) it is of, by the samples' labels (None: not asked for)."""

    loss: float
    accuracy: float
    classes: ClassCounts | None
    label_loss: Float64[np.ndarray, " label"] | None
    label_count: Int64[np.ndarray, " label"] | None

    def of(self, share: DeviceShare, task: Task) -> tuple[float, float]:
        """Loss and score as a device with such labels sees the model."""
        if not share.samples:
            return math.nan, math.nan
        loss = self._weighted_loss(share)
        return loss, _perplexity(loss) if task == "causal-lm" else self.weighted_accuracy(share)

    def weighted_accuracy(self, share: DeviceShare) -> float:
        """The mean recall, each class as often as the device has it."""
        if self.classes is None or share.labels is None:
            return self.accuracy
        support = self.classes.support
        weights = _weights(share.labels, support)
        if weights is None:
            return self.accuracy
        # the weights' sum is 1 within rounding
        return min(float((weights * self.classes.right / np.maximum(support, 1)).sum()), 1.0)

    def _weighted_loss(self, share: DeviceShare) -> float:
        if self.label_loss is None or self.label_count is None or share.labels is None:
            return self.loss
        weights = _weights(share.labels, self.label_count)
        if weights is None:
            return self.loss
        return float((weights * self.label_loss / np.maximum(self.label_count, 1)).sum())


def _weights(
    labels: Sequence[int], held_out: Int64[np.ndarray, " label"]
) -> Float64[np.ndarray, " label"] | None:
    """A device's share of each label, of those that held-out samples have; None if it has none."""
    own = np.zeros(len(held_out))
    own[: len(labels)] = labels[: len(held_out)]
    own[held_out == 0] = 0.0
    return own / own.sum() if own.any() else None


@torch.no_grad()
def _pass(
    training: Training,
    server: ServerSide,
    trained: tuple[Tensor, Tensor],
    samples: Samples,
    *,
    by_label: bool,
) -> _Pass:
    """All samples through both parts with these rows, of device part and server part."""
    below, above = server.device_part.adapted.device, server.part.adapted.device
    rows = to_device(trained[0], below), to_device(trained[1], above)
    losses, right, counted = [], [], 0  # tensors: who reads one waits for it
    predicted: list[Tensor] = []
    per_label = _PerLabel(samples) if by_label else None
    step = min(training.micro_batch_samples, _MOST_SAMPLES)
    for first in range(0, len(samples), step):
        indices = np.arange(first, min(first + step, len(samples)))
        batch = server.batches.make(samples, indices)
        place = 0
        for logits, labels in _predictions(training, server, rows, batch):
            counted += int((labels != IGNORED_LABEL).sum())
            labels = to_device(labels.long(), logits.device)
            losses.append(
                functional.cross_entropy(
                    logits, labels, ignore_index=IGNORED_LABEL, reduction="sum"
                )
            )
            found = logits.argmax(-1)
            right.append((found == labels).sum())
            if training.task != "causal-lm":
                predicted.append(found)
            if per_label is not None:
                per_label.add(logits, labels, indices, place, batch)
            place += len(labels)
    loss = 0.0
    for each in torch.stack(losses).cpu().tolist():
        loss += each
    classes = None
    if predicted:
        taken = torch.cat(predicted).cpu().numpy()
        classes = ClassCounts.of(samples.labels, taken, training.classes)
    return _Pass(
        loss / counted,
        int(torch.stack(right).sum()) / counted,
        classes,
        None if per_label is None else per_label.loss,
        None if per_label is None else per_label.count,
    )


class _PerLabel:
    """Sums of losses by the labels of the samples that they are of."""

    def __init__(self, samples: Samples) -> None:
        self._labels = np.maximum(samples.labels, 0)
        size = int(self._labels.max(initial=0)) + 1
        self.loss = np.zeros(size)
        self.count = np.zeros(size, np.int64)

    def add(
        self,
        logits: Tensor,
        labels: Tensor,
        samples: Int64[np.ndarray, " row"],
        place: int,
        batch: Batch,
    ) -> None:
        """The predictions from `place` on of a batch: one a sample, or one a token."""
        losses = functional.cross_entropy(
            logits, labels, ignore_index=IGNORED_LABEL, reduction="none"
        )
        each = 1 if batch.labels.ndim == 1 else batch.labels.shape[1]
        rows = samples[(place + np.arange(len(labels))) // each]
        known = (labels != IGNORED_LABEL).cpu().numpy()
        np.add.at(self.loss, self._labels[rows], losses.double().cpu().numpy() * known)
        np.add.at(self.count, self._labels[rows], known)


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
