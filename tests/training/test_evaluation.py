"""What evaluations say of classes and devices, against sums by hand."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from cutlayer.data.samples import Subset
from cutlayer.jobs.prepare import prepare
from cutlayer.training.evaluation import (
    MOST_CONFUSED,
    ClassCounts,
    DeviceShare,
    Evaluation,
    evaluate,
    share_of,
)
from cutlayer.training.expected import initial_state
from cutlayer.training.state import AdapterState, RunState, Setup

# of 4 cats 3 are found, of 2 dogs none; nobody is a cow, and nothing was taken for one
LABELS, TAKEN = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0, 0])
COUNTS = ClassCounts.of(LABELS, TAKEN, 3)


def test_figures_of_classes_are_those_by_hand() -> None:
    cat, dog, cow = COUNTS.figures
    assert (cat.precision, cat.recall, cat.support) == (3 / 5, 3 / 4, 4)
    assert cat.f1 == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert (dog.precision, dog.recall, dog.f1, dog.support) == (0, 0, 0, 2)
    assert (cow.precision, cow.recall, cow.f1, cow.support) == (0, 0, 0, 0)
    # as scikit-learn has it: over the classes that are there
    assert COUNTS.macro_f1 == pytest.approx((cat.f1 + 0) / 2)
    twice = ClassCounts.together([COUNTS, COUNTS])
    assert twice.macro_f1 == COUNTS.macro_f1 and twice.support.tolist() == [8, 4, 0]


def test_of_very_many_classes_there_is_no_table() -> None:
    many = ClassCounts.of(LABELS, TAKEN, MOST_CONFUSED + 1)
    assert many.confusion is None and many.macro_f1 == COUNTS.macro_f1
    details = Evaluation(0.5, 0.5, many).details([str(n) for n in range(MOST_CONFUSED + 1)], 1)
    assert details.confusion == () and len(details.classes) == MOST_CONFUSED + 1


def test_details_name_the_classes_and_a_language_model_has_none() -> None:
    details = Evaluation(0.5, 0.5, COUNTS, (0.25, math.nan)).details("abc", 3)
    assert details.round == 3 and details.class_names == ("a", "b", "c")
    assert details.confusion == ((3, 1, 0), (2, 0, 0), (0, 0, 0))
    assert math.isnan(details.device_scores[1])
    plain = Evaluation(0.5, 0.5).details(("article",), 1)
    assert plain.macro_f1 is None and plain.classes == plain.class_names == ()


def _setup(folders: tuple[Path, Path]) -> Setup:
    return prepare(tiny.config(*folders, codec="none")).setup


def test_a_device_sees_the_classes_that_it_has(vision: tuple[Path, Path]) -> None:
    """The mean recall, each class as often as the device has it; who has all samples' labels has
    the score itself."""
    setup = _setup(vision)
    state = initial_state(setup)
    shares = [share_of(device) for device in setup.devices]
    assert [sum(share.labels or ()) for share in shares] == [d.samples for d in setup.devices]
    found = evaluate(setup.training, setup.server, state, shares=shares)
    plain = evaluate(setup.training, setup.server, state)
    assert (found.loss, found.accuracy) == (plain.loss, plain.accuracy)
    assert plain.devices == () and found.classes is not None
    counts = found.classes
    assert counts.confusion is not None and counts.confusion.sum() == len(setup.server.test)
    assert np.array_equal(np.diag(counts.confusion), counts.right)
    assert counts.right.sum() / counts.support.sum() == found.accuracy
    recall = counts.right / counts.support
    for share, score in zip(shares, found.devices, strict=True):
        own = np.zeros(len(recall))
        own[: len(share.labels or ())] = share.labels or ()
        assert score == pytest.approx((own * recall).sum() / own.sum())
    every = tuple(np.bincount(setup.server.test.labels).tolist())
    same = [DeviceShare(7, every), DeviceShare(7, None)]
    again = evaluate(setup.training, setup.server, state, shares=same)
    assert again.devices == pytest.approx((found.accuracy,) * 2)


def _personal(setup: Setup) -> tuple[RunState, list[RunState]]:
    """A state with adapters for each device, and those of each by themselves."""
    state, count = initial_state(setup), len(setup.devices)
    generator = torch.Generator().manual_seed(1)
    sides = [
        side.row + 0.05 * torch.randn(count, side.row.numel(), generator=generator)
        for side in (state.device, state.server)
    ]
    alone = [
        replace(state, device=AdapterState(sides[0][n], {}), server=AdapterState(sides[1][n], {}))
        for n in range(count)
    ]
    both = replace(state, device=AdapterState(sides[0], {}), server=AdapterState(sides[1], {}))
    return both, alone


@pytest.mark.parametrize("folders", ["vision", "llama"])
def test_devices_with_adapters_of_their_own_are_evaluated_by_them(
    folders: str, request: pytest.FixtureRequest
) -> None:
    """The run's score is the mean over devices, by samples."""
    setup = _setup(request.getfixturevalue(folders))
    state, alone = _personal(setup)
    shares = [share_of(device) for device in setup.devices]
    found = evaluate(setup.training, setup.server, state, shares=shares)
    own = [
        evaluate(setup.training, setup.server, one, shares=[share])
        for one, share in zip(alone, shares, strict=True)
    ]
    assert found.devices == tuple(each.devices[0] for each in own)
    assert len(set(found.devices)) > 1
    weights = np.array([share.samples for share in shares], float)
    weights /= weights.sum()
    if folders == "vision":
        assert found.accuracy == pytest.approx((weights * found.devices).sum())
        return
    assert found.loss == pytest.approx((weights * np.log(found.devices)).sum())
    assert found.score("causal-lm").value == pytest.approx(math.exp(found.loss))


def test_a_language_model_has_a_perplexity_by_device(llama: tuple[Path, Path]) -> None:
    """Tokens of documents of each category, as often as the device has them."""
    setup = _setup(llama)
    state = initial_state(setup)
    test = setup.server.test
    labels = np.arange(len(test)) % 2
    own = [
        evaluate(setup.training, setup.server, state, Subset(test, np.flatnonzero(labels == n)))
        for n in range(2)
    ]
    both = Subset(test, np.arange(len(test)))
    both.labels = labels
    shares = [DeviceShare(4, (4, 0)), DeviceShare(4, (0, 4)), DeviceShare(4, (1, 3))]
    found = evaluate(setup.training, setup.server, state, both, shares)
    wanted = [own[0].loss, own[1].loss, 0.25 * own[0].loss + 0.75 * own[1].loss]
    assert np.log(found.devices) == pytest.approx(wanted, rel=1e-5)
