"""Row-wise optimisers against torch's, one torch optimiser for each row.

Both round each of a handful of float32 operations a step, in an order that may differ: after
`STEPS` steps of at most `lr` = 0.1 the rows differ by at most a few rounding errors (6e-8 of the
largest value, about 4) for each step.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.model.optimizer import AdamW, Optimizer, Sgd

STEPS = 6
TOLERANCE = {"rtol": 0.0, "atol": STEPS * 4 * 4 * 6e-8}
RULES: list[tuple[Optimizer, type[torch.optim.Optimizer], dict[str, object]]] = [
    (Sgd(), torch.optim.SGD, {}),
    (Sgd(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}),
    (Sgd(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    (
        Sgd(momentum=0.9, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.1},
    ),
    (AdamW(), torch.optim.AdamW, {}),
    (
        AdamW(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2),
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2},
    ),
]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rule", "torch_rule", "options"), RULES, ids=lambda value: repr(value))
def test_rows_step_as_torch_would_step_each(
    rule: Optimizer, torch_rule: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    rows = normal(3, 20, seed=0)
    parameters = [torch.nn.Parameter(row.clone()) for row in rows]
    state = rule.init(rows)
    optimisers = [torch_rule([parameter], lr=0.1, **options) for parameter in parameters]
    for step in range(STEPS):
        gradients = normal(3, 20, seed=step + 1)
        rate = 0.1 * 0.9**step
        rows, state = rule.step(rows, gradients, state, rate)
        for parameter, optimiser, gradient in zip(parameters, optimisers, gradients, strict=True):
            optimiser.param_groups[0]["lr"] = rate
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(rows, torch.stack([p.detach() for p in parameters]), **TOLERANCE)


@pytest.mark.parametrize("rule", [rule for rule, *_ in RULES], ids=repr)
@given(order=st.permutations([0, 0, 1, 2, 2, 2]))
def test_rows_do_not_know_of_each_other(rule: Optimizer, order: list[int]) -> None:
    """Stepped in any order and grouping, a row ends to the bit where it would end alone."""
    bank, state = normal(3, 8, seed=0), rule.init(normal(3, 8, seed=0))
    taken = [0, 0, 0]
    for device in order:
        own = {name: value[[device]] for name, value in state.items()}
        gradient = normal(1, 8, seed=10 * device + taken[device])
        row, own = rule.step(bank[[device]], gradient, own, 0.1)
        bank[device] = row[0]
        for name, value in own.items():
            state[name][device] = value[0]
        taken[device] += 1
    for device, steps in enumerate(taken):
        row = normal(3, 8, seed=0)[[device]]
        own = rule.init(row)
        for step in range(steps):
            row, own = rule.step(row, normal(1, 8, seed=10 * device + step), own, 0.1)
        assert torch.equal(bank[device], row[0])


@pytest.mark.parametrize("rule", [rule for rule, *_ in RULES], ids=repr)
def test_nothing_given_is_changed(rule: Optimizer) -> None:
    rows, gradients = normal(2, 5, seed=0), normal(2, 5, seed=1)
    state = rule.init(rows)
    _, state = rule.step(rows, gradients, state, 0.1)
    before = [value.clone() for value in (rows, gradients, *state.values())]
    stepped, new = rule.step(rows.requires_grad_(), gradients, state, 0.1)
    assert not stepped.requires_grad
    assert tuple(new) == rule.state_names == tuple(state)
    assert all(value.shape[0] == 2 for value in new.values())
    for was, value in zip(before, (rows, gradients, *state.values()), strict=True):
        assert torch.equal(was, value)
