"""How good a trained model is on samples: perplexity, accuracy, and how many of its answers are the
ones of the data.

The unsplit model reads them, in the numbers of the run, so a run's own test samples give the run's
own figures. Knows no terminal.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cutlayer.data.rows import token_row
from cutlayer.data.samples import Batch, Samples, Subset, TokenRow
from cutlayer.errors import ConfigError, DataError
from cutlayer.jobs.dataset import TrialSamples, trial_samples
from cutlayer.jobs.use import Sampling, UsableModel, generated
from cutlayer.model.losses import next_tokens
from cutlayer.model.placement import to_device
from cutlayer.spec import IGNORED_LABEL, MOST_LOGITS
from cutlayer.training.exchange import group_inputs

_MOST_SAMPLES = 64
# new tokens of an answer beyond those of the longest in the data
_MORE_TOKENS = 16


@dataclass(frozen=True)
class Answers:
    """How answers are compared: by the last place in each that `pattern` finds, its first group if
    it has one; None: by all of the text, blanks apart. `max_new_tokens`: None: a little more than
    the longest in the data."""

    pattern: str | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ConfigError(f"{self.pattern!r} is no regular expression: {error}") from error

    def key(self, text: str) -> str | None:
        """What of an answer is compared; None: it has none of it."""
        if self.pattern is None:
            return " ".join(text.split())
        found = list(re.finditer(self.pattern, text))
        return found[-1][min(1, found[-1].re.groups)] if found else None


@dataclass(frozen=True)
class Figures:
    """Of a model on samples. `loss`: mean [nat] over what counts, samples or tokens; `accuracy`:
    the fraction of it that is the likeliest; `perplexity`: of a language model; `exact_match`: the
    fraction of answers, where the data have such."""

    loss: float
    accuracy: float
    perplexity: float | None = None
    exact_match: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """Figures of a trained model on `data`: of so many `samples`, in which so much `counted`, and
    of so many `answers`; of the model before training too, where that was asked for (`base`)."""

    data: str
    samples: int
    counted: int
    answers: int
    trained: Figures
    base: Figures | None


def try_trained(
    model: UsableModel,
    data: str | None = None,
    *,
    samples: int | None = None,
    answers: Answers | None = None,
    base: bool = False,
) -> Evaluated:
    """The figures of a trained model on `data` (None: the test samples of its run).

    `samples`: at most so many, spread over all; `answers`: how its answers are compared with those
    of conversations, prompts and completions, None: it writes none. `base`: the model before
    training, too. Raises DataError, AssetError for data that cannot be used; ConfigError for a
    model that has no base beside it.
    """
    folder = model.folder
    if base and folder.is_model:
        raise ConfigError(
            f"{folder.path} is a model by itself, so there is no base beside it: evaluate the run"
        )
    facts = folder.facts
    found = trial_samples(folder.config, data, model.base, facts.task, facts.class_names)
    chosen = found.samples
    if samples is not None and samples < len(chosen):
        chosen = Subset(chosen, np.arange(samples) * len(chosen) // samples)
    asked = list(_asked(chosen, model)) if found.answers and answers is not None else []
    trained, counted = _figures(model, found, chosen, asked, answers, base=False)
    before = _figures(model, found, chosen, asked, answers, base=True)[0] if base else None
    return Evaluated(found.name, len(chosen), counted, len(asked), trained, before)


@dataclass(frozen=True)
class _Asked:
    """The tokens before an answer, and its text in the data, of so many tokens."""

    prompt: list[int]
    answer: str
    tokens: int


def _asked(samples: Samples, model: UsableModel) -> Iterator[_Asked]:
    """Each answer of the rows: tokens that count, one after another, and what comes before them."""
    for index in range(len(samples)):
        for ids, counts in _documents(token_row(samples, index)):
            edges = np.flatnonzero(np.diff([0, *counts.astype(int), 0]))
            for first, end in zip(edges[::2], edges[1::2], strict=True):
                text: str = model.tokenizer.decode(ids[first:end], skip_special_tokens=True)
                yield _Asked(ids[:first].tolist(), text, int(end - first))


def _documents(row: TokenRow) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The documents of a row: ids, and which of them count."""
    first = 0
    for length in row.documents or (len(row.ids),):
        place = slice(first, first + length)
        yield row.ids[place], row.labels[place] != IGNORED_LABEL
        first += length


def _figures(
    model: UsableModel,
    found: TrialSamples,
    samples: Samples,
    asked: Sequence[_Asked],
    answers: Answers | None,
    *,
    base: bool,
) -> tuple[Figures, int]:
    """The figures, and over how much they are."""
    row = model.base_row if base else model.row
    task, total, right, counted = model.folder.facts.task, 0.0, 0, 0
    step = min(model.folder.config.training.batch_size, _MOST_SAMPLES)
    with torch.no_grad():
        for first in range(0, len(samples), step):
            indices = np.arange(first, min(first + step, len(samples)))
            for logits, labels in _predictions(model, row, found.batches.make(samples, indices)):
                labels = to_device(labels.long(), logits.device)
                total += float(
                    functional.cross_entropy(
                        logits, labels, ignore_index=IGNORED_LABEL, reduction="sum"
                    )
                )
                right += int((logits.argmax(-1) == labels).sum())
                counted += int((labels != IGNORED_LABEL).sum())
    if not counted:
        raise DataError(f"{found.name}: nothing counts in {len(samples)} samples: take more")
    loss = total / counted
    figures = Figures(
        loss,
        right / counted,
        math.exp(min(loss, 700.0)) if task == "causal-lm" else None,
        _exact_match(model, asked, answers, base=base) if asked and answers is not None else None,
    )
    return figures, counted


def _predictions(model: UsableModel, row: Tensor, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [row, class] of the batch's samples or, a few at a time, tokens; with the labels."""
    whole, given = model.whole, group_inputs([batch])
    labels = torch.from_numpy(batch.labels)
    if whole.task != "causal-lm":
        yield whole.forward(row[None], given.sizes, given.inputs, given.lengths).float(), labels
        return
    vocabulary = whole.adapted.model.get_output_embeddings().weight.shape[0]  # type: ignore[no-untyped-call]
    most = max(1, MOST_LOGITS // vocabulary)
    wanted = torch.split(next_tokens(labels).flatten(), most)
    pieces = whole.token_logits(row, given.inputs, most)
    for logits, own in zip(pieces, wanted, strict=True):
        yield logits.float(), own


def _exact_match(
    model: UsableModel, asked: Sequence[_Asked], answers: Answers, *, base: bool
) -> float:
    longest = max(one.tokens for one in asked)
    sampling = Sampling(answers.max_new_tokens or longest + _MORE_TOKENS)
    written = generated(model, [one.prompt for one in asked], sampling, base=base)
    right = 0
    for one, text in zip(asked, written, strict=True):
        wanted = answers.key(one.answer)
        right += wanted is not None and answers.key(text) == wanted
    return right / len(asked)
