"""Robust aggregations against their definitions, and against devices that attack."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ModelError
from cutlayer.model.optimizer import AdamW, Aggregation, Clipped, HeadRate, Sgd, merged
from cutlayer.model.robust import Krum, Median, NormClipped, TrimmedMean, impossible

BEGAN = torch.linspace(-1, 1, 40)
RULES: tuple[Aggregation, ...] = (Median(), TrimmedMean(0.2), NormClipped(1.0), Krum(0.2))
# what a device may send in the place of its adapter
ATTACKS = {
    "sign": lambda row: 2 * BEGAN - row,
    "scaled": lambda row: BEGAN + 100 * (row - BEGAN),
    "absurd": lambda row: torch.full_like(row, 1e30),
    "not a number": lambda row: torch.full_like(row, math.nan),
    "random": lambda row: 5 * torch.randn(row.shape, generator=torch.Generator().manual_seed(9)),
}


def rows_of(devices: int, seed: int = 0) -> torch.Tensor:
    """Honest ones: of a common move, each with its own noise."""
    draw = torch.Generator().manual_seed(seed)
    move = torch.randn(40, generator=draw)
    return BEGAN + 0.1 * (move + 0.3 * torch.randn(devices, 40, generator=draw))


@given(devices=st.integers(1, 9), seed=st.integers(0, 50))
def test_median_and_trimmed_mean_are_numpys(devices: int, seed: int) -> None:
    rows = rows_of(devices, seed)
    values = rows.double().numpy()
    weights = [1.0] * devices
    found = Median().merge(rows, weights).numpy()
    np.testing.assert_allclose(found, np.median(values, axis=0), rtol=0, atol=2e-7)
    ends = min(math.ceil(0.3 * devices), (devices - 1) // 2)
    due = np.sort(values, axis=0)[ends : devices - ends].mean(axis=0)
    np.testing.assert_allclose(TrimmedMean(0.3).merge(rows, weights).numpy(), due, atol=2e-7)


def test_krum_leaves_out_whom_the_definition_leaves_out() -> None:
    rows = rows_of(8)
    rows[2] += 3.0
    rows[5] -= 2.0
    hostile, devices = 2, 8
    scores = []
    for row in rows:
        squares = sorted(float((row - other).double().square().sum()) for other in rows)
        scores.append(sum(squares[1 : 1 + devices - hostile - 2]))
    kept = np.argsort(scores)[: devices - hostile]
    assert not {2, 5} & set(kept.tolist())
    due = rows[sorted(kept.tolist())].double().mean(dim=0)
    torch.testing.assert_close(Krum(0.25).merge(rows, [1.0] * 8).double(), due, rtol=0, atol=2e-7)


def test_updates_are_clipped_to_the_median_and_weigh_the_same() -> None:
    rows = BEGAN + torch.tensor([1.0, 2.0, 50.0])[:, None] * torch.ones(40) / math.sqrt(40)
    found = NormClipped(1.0).since(BEGAN).merge(rows, [1.0, 1.0, 2.0])
    # lengths 1, 2 and 50, the last of which is made 2
    due = BEGAN + (1 + 2 + 2) / 3 / math.sqrt(40)
    torch.testing.assert_close(found, due, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_two_of_ten_cannot_pull_the_adapter_away(rule: Aggregation, attack: str) -> None:
    rows = rows_of(10)
    honest = rows[2:].mean(dim=0)
    for place in (0, 1):
        rows[place] = ATTACKS[attack](rows[place])
    found = merged(rule.since(BEGAN), rows, [1.0] * 10)
    moved = torch.linalg.vector_norm(honest - BEGAN)
    assert torch.linalg.vector_norm(found - honest) < 0.45 * moved


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@given(devices=st.integers(1, 7), width=st.sampled_from([0, 3]))
def test_equal_rows_are_what_they_become(rule: Aggregation, devices: int, width: int) -> None:
    row = torch.tensor([0.1, -2.0, 7e20])[:width]
    found = rule.since(torch.zeros(width)).merge(row.expand(devices, -1), [2.0] * devices)
    torch.testing.assert_close(found, row, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_weights_that_are_not_one_each_are_refused(rule: Aggregation) -> None:
    with pytest.raises(ModelError, match="1 weights for 2 devices"):
        rule.since(torch.zeros(3)).merge(torch.zeros(2, 3), [1.0])


def test_what_no_training_can_have_made_is_named() -> None:
    rows = rows_of(6)
    rows[1] = torch.nan
    rows[3, 7] = 1e30
    rows[4] = BEGAN + 40 * (rows[4] - BEGAN)
    found = impossible(rows, BEGAN, most_move=[20.0] * 6, times_median=10.0)
    assert sorted(found) == [1, 3, 4]
    assert found[1] == "it has values that are not finite"
    assert "moved by 1e+30; its learning rates add up to moves of at most 20" in found[3]
    assert "times the median" in found[4]
    assert list(impossible(rows, BEGAN, most_move=[20.0] * 6, times_median=None)) == [1, 3]


def test_honest_updates_are_possible_and_two_devices_have_no_median() -> None:
    rows = rows_of(6)
    assert impossible(rows, BEGAN, most_move=[math.inf] * 6, times_median=10.0) == {}
    few = torch.stack([BEGAN + 0.01, BEGAN + 10.0])
    assert impossible(few, BEGAN, most_move=[math.inf] * 2, times_median=10.0) == {}
    assert impossible(few[:, :0], BEGAN[:0], most_move=[1.0] * 2, times_median=10.0) == {}


@pytest.mark.parametrize(
    "rule",
    [
        AdamW(weight_decay=0.0),
        AdamW(betas=(0.5, 0.9), weight_decay=0.0),
        Clipped(Sgd(momentum=0.9), 2.0),
        Clipped(AdamW(weight_decay=0.0), 1.0),
        HeadRate(AdamW(weight_decay=0.0), 3, 4.0),
    ],
)
@given(seed=st.integers(0, 30))
def test_no_gradients_move_a_value_further_than_the_bound(rule: object, seed: int) -> None:
    """Gradients that are zero for long and then large move Adam furthest."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.zeros(1, 6)
    state = rule.init(rows)  # type: ignore[attr-defined]
    for step in range(60):
        size = 10.0 ** float(torch.randint(-6, 7, (1,), generator=draw))
        grads = size * torch.randn(1, 6, generator=draw).abs() * (step % 7 == seed % 7 or step > 40)
        stepped, state = rule.step(rows, grads, state, 0.01)  # type: ignore[attr-defined]
        assert (stepped - rows).abs().max() <= 0.01 * rule.most_move * (1 + 1e-5)  # type: ignore[attr-defined]
        rows = stepped


def test_gradient_descent_has_no_bound() -> None:
    assert Sgd(momentum=0.9).most_move == math.inf
    assert Clipped(Sgd(weight_decay=0.1), 1.0).most_move == math.inf
    assert replace(AdamW(), betas=(0.99, 0.9)).most_move == math.inf
