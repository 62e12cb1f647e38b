"""Learning rates against those of transformers; row-wise optimisers against torch's, one torch
optimiser for each row.

Both round each of a handful of float32 operations a step, in an order that may differ: after
`STEPS` steps of at most `lr` = 0.1 the rows differ by at most a few rounding errors (6e-8 of the
largest value, about 4) for each step.
"""

from collections.abc import Callable

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.model.optimizer import (
    AdamW,
    Clipped,
    HeadRate,
    Optimizer,
    RoundDecay,
    Schedule,
    Sgd,
    WarmUp,
    WarmUpDown,
)

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
WRAPPED = [
    Clipped(AdamW(), 0.5),
    HeadRate(AdamW(), 3, 10.0),
    Clipped(HeadRate(Sgd(momentum=0.9), 2, 0.1), 2.0),
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


def test_a_longer_gradient_is_scaled_as_torch_clips_it() -> None:
    """Each row is one part of one device: short ones stay, to the bit."""
    rows, gradients = normal(3, 20, seed=0), normal(3, 20, seed=1)
    gradients[1] *= 1e-3
    stepped, _ = Clipped(Sgd(), 0.5).step(rows, gradients, {}, 0.1)
    plain, _ = Sgd().step(rows, gradients, {}, 0.1)
    assert torch.equal(stepped[1], plain[1])
    for row, gradient, found in zip(rows, gradients, stepped, strict=True):
        # a row is several tensors to torch
        parameters = [torch.nn.Parameter(own.clone()) for own in torch.split(row, [12, 8])]
        for parameter, own in zip(parameters, torch.split(gradient, [12, 8]), strict=True):
            parameter.grad = own.clone()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        torch.optim.SGD(parameters, lr=0.1).step()
        expected = torch.cat([parameter.detach() for parameter in parameters])
        # a norm of 20 squares, in another order
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("rule", [Sgd(momentum=0.9), AdamW(weight_decay=0.1)], ids=repr)
def test_a_head_steps_as_a_group_of_its_own(rule: Optimizer) -> None:
    rows = normal(2, 10, seed=0)
    own = HeadRate(rule, 4, 25.0)
    state = own.init(rows)
    name = type(rule).__name__.replace("Sgd", "SGD")
    options = {"momentum": 0.9} if name == "SGD" else {"weight_decay": 0.1}
    parts = [[torch.nn.Parameter(part.clone()) for part in row.split([6, 4])] for row in rows]
    optimisers = [
        getattr(torch.optim, name)(
            [{"params": [body], "lr": 0.01}, {"params": [head], "lr": 0.25}], **options
        )
        for body, head in parts
    ]
    for step in range(STEPS):
        gradients = normal(2, 10, seed=step + 1)
        rows, state = own.step(rows, gradients, state, 0.01)
        for (body, head), optimiser, gradient in zip(parts, optimisers, gradients, strict=True):
            body.grad, head.grad = (part.clone() for part in gradient.split([6, 4]))
            optimiser.step()
    expected = torch.stack([torch.cat([part.detach() for part in own]) for own in parts])
    torch.testing.assert_close(rows, expected, **TOLERANCE)


@pytest.mark.parametrize("rule", [*[rule for rule, *_ in RULES], *WRAPPED], ids=repr)
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


@pytest.mark.parametrize("rule", [*[rule for rule, *_ in RULES], *WRAPPED], ids=repr)
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


def _of_transformers(make: Callable[..., object], steps: int, **options: object) -> list[float]:
    """A rate of 1 at each step, as transformers has it."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimiser, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()  # type: ignore[attr-defined]
    return rates


ROUNDS, LOCAL_STEPS = 4, 6
ALL = ROUNDS * LOCAL_STEPS


@pytest.mark.parametrize("warmup", [0, 1, 7, ALL - 1])
def test_learning_rates_are_those_of_transformers_value_by_value(warmup: int) -> None:
    given = {"num_warmup_steps": warmup}
    whole = {**given, "num_training_steps": ALL}
    found: dict[Schedule, list[float]] = {
        WarmUp(warmup): _of_transformers(
            transformers.get_constant_schedule_with_warmup, ALL, **given
        ),
        WarmUpDown(ROUNDS, False, warmup): _of_transformers(
            transformers.get_linear_schedule_with_warmup, ALL, **whole
        ),
        WarmUpDown(ROUNDS, True, warmup): _of_transformers(
            transformers.get_cosine_schedule_with_warmup, ALL, **whole
        ),
        WarmUpDown(ROUNDS, True, warmup, 0.0): _of_transformers(
            transformers.get_cosine_with_min_lr_schedule_with_warmup, ALL, **whole, min_lr=0.0
        ),
    }
    for schedule, expected in found.items():
        own = [
            schedule.factor(round_number, step, LOCAL_STEPS)
            for round_number in range(1, ROUNDS + 1)
            for step in range(LOCAL_STEPS)
        ]
        # a cosine and a product in float64
        assert own == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("cosine", [True, False])
def test_a_schedule_comes_down_to_its_end(cosine: bool) -> None:
    """Past its rounds it stays there. Each device goes through all of it in its own steps."""
    schedule = WarmUpDown(ROUNDS, cosine, 3, 0.1)
    after = [schedule.factor(ROUNDS + 1, step, LOCAL_STEPS) for step in range(3)]
    assert after == pytest.approx([0.1] * 3)
    down = [
        schedule.factor(1 + n // LOCAL_STEPS, n % LOCAL_STEPS, LOCAL_STEPS) for n in range(3, ALL)
    ]
    assert down[0] == 1.0 and down == sorted(down, reverse=True) and down[-1] > 0.1
    late = WarmUpDown(ROUNDS, cosine, 0, 0.1)
    assert late.factor(3, 0, 2) == late.factor(3, 0, LOCAL_STEPS)


def test_a_round_has_one_rate_and_the_next_a_lower_one() -> None:
    schedule = RoundDecay(0.5)
    assert [schedule.factor(t, step, 9) for t in (1, 3) for step in (0, 8)] == [1, 1, 0.25, 0.25]
