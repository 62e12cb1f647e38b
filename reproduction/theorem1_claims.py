"""What the paper says of convergence, judged by its own recursion and by SGD on quadratics."""

from decimal import Decimal

import numpy as np

from reproduction.claims import Claim, judge_at_most, judge_number
from reproduction.theorem1_cases import (
    KEPT,
    MANY_DEVICES,
    VALUES,
    Biased,
    Drift,
    Plain,
    first_round_bounds,
)

_UNIT = "% of the initial gap"


def claims_of(plain: Plain, biased: Biased, drift: Drift) -> tuple[Claim, ...]:
    """The theorem in its two readings, what the text draws from it, and what it is used for."""
    return (
        _product(plain),
        _unrolled(plain),
        _one_round_off(plain),
        _limit(plain),
        _compressed(biased),
        *(_local_steps(drift, steps) for steps in drift.sgd if steps > 1),
    )


def _product(plain: Plain) -> Claim:
    rounds = len(plain.sgd) - 1
    ours, printed = _percent(plain.mended.gap[-1]), _printed(plain.product[-1])
    above = np.flatnonzero(plain.sgd > plain.product)
    broken = (
        f"SGD with just these constants is above it from round {above[0]} on and ends at "
        f"{_percent(plain.sgd[-1]):.2f} %"
        if len(above)
        else "SGD stays within it here"
    )
    return Claim(
        f"bound (14) after {rounds} rounds, N(T-t) read as N times (T-t)",
        f"at most {printed} %",
        printed,
        ours,
        _UNIT,
        judge_number(printed, ours, implied=ours),
        f"The paper's own recursion (A.10) unrolls to {ours:.2f} %; {broken}.",
    )


def _unrolled(plain: Plain) -> Claim:
    rounds = len(plain.sgd) - 1
    ours = _percent(plain.mended.gap[-1])
    printed = _printed(plain.mended.gap[-1])
    nearest = float((plain.sgd[1:] / plain.mended.gap[1:]).max())
    return Claim(
        f"bound (14) after {rounds} rounds, N(T-t) read as the devices of a round",
        f"at most {printed} %",
        printed,
        ours,
        _UNIT,
        judge_number(printed, ours),
        "With the same devices in every round it is (A.10) unrolled, and SGD with one local step "
        f"and unbiased noise keeps it: its gap is at most {nearest:.2f} of the bound in all rounds"
        f", {_percent(plain.sgd[-1]):.2f} % at the end.",
    )


def _one_round_off(plain: Plain) -> Claim:
    printed, unrolled = (_percent(value) for value in first_round_bounds())
    shown = _printed(printed / 100)
    return Claim(
        f"bound (14) after one round with one device, {MANY_DEVICES} in later ones",
        f"at most {shown} %",
        shown,
        unrolled,
        _UNIT,
        judge_number(shown, unrolled, implied=unrolled),
        f"(A.10) unrolls to N(T-1-t), not N(T-t): a round counts those who took part in it; SGD is "
        f"at {_percent(plain.first_round_alone):.1f} %.",
    )


def _limit(plain: Plain) -> Claim:
    tail = plain.sgd[len(plain.sgd) // 2 :]
    ours = _percent(float(tail.mean()))
    return Claim(
        "gap that SGD comes to at a constant step size",
        "0: training converges to the optimum",
        Decimal("0"),
        ours,
        _UNIT,
        judge_at_most(Decimal("0"), ours, reach=100.0),
        "The text takes a second term that stays bounded for convergence; it is a floor, here "
        f"{_percent(plain.mended.floor):.2f} % in the bound, that only a smaller step size, less "
        "noise or more devices lower.",
    )


def _compressed(biased: Biased) -> Claim:
    printed, ours = _printed(biased.printed.gap[-1]), _percent(biased.sgd[-1])
    return Claim(
        f"gap with Top-{KEPT} of {VALUES} gradient values on unlike data",
        f"at most {printed} %",
        printed,
        ours,
        _UNIT,
        judge_at_most(printed, ours, reach=100.0),
        "What Top-K drops is no unbiased noise (Assumption 3); with its squared bias as measured, "
        f"{biased.bias:.3f} at the end, the mended bound is {_percent(biased.mended.gap[-1]):.2f} %"
        f" and {'holds' if _holds(biased) else 'does not hold'} in every round.",
    )


def _local_steps(drift: Drift, steps: int) -> Claim:
    printed, ours = _printed(drift.printed.gap[-1]), _percent(drift.sgd[steps][-1])
    return Claim(
        f"gap with {steps} local steps a round on unlike data",
        f"at most {printed} %",
        printed,
        ours,
        _UNIT,
        judge_at_most(printed, ours, reach=100.0),
        "Devices drift towards their own optima between averagings; K is in Algorithm 1 and not in "
        f"the theorem. With one step SGD ends at {_percent(drift.sgd[1][-1]):.2f} %.",
    )


def _holds(biased: Biased) -> bool:
    # both begin at 1, but for rounding
    return bool((biased.sgd <= biased.mended.gap * (1 + 1e-12)).all())


def _percent(gap: float) -> float:
    return 100.0 * float(gap)


def _printed(gap: float) -> Decimal:
    """What (14) gives [%], to two decimals, as the paper prints its percentages."""
    return Decimal(f"{_percent(gap):.2f}")
