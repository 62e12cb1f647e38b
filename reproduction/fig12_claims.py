"""What the paper's text says of Fig. 12: delays with ViT-L in place of ViT-B."""

from decimal import Decimal
from math import inf

from reproduction.claims import Claim, Verdict, judge_at_most, judge_larger
from reproduction.evaluation import NAMES, SPLIT_RIVALS, Evaluation

LEAST_TIMES = Decimal("2.5")


def claims_of(base: Evaluation, large: Evaluation) -> tuple[Claim, ...]:
    """SFT's lead, against which FL's lag is said to shrink."""
    return (_lead(large), _fl_gap(base, large))


def _lead(large: Evaluation) -> Claim:
    """Bound and ratio are judged as parts of the rival's delay: at least 2.5x is at most 0.4."""
    times = {name: large.times_sft(name) for name in SPLIT_RIVALS}
    nearest = min(times, key=times.__getitem__)
    ours = times[nearest]
    return Claim(
        "delay of the fastest other split scheme over that of SFT, ViT-L",
        f"at least {LEAST_TIMES}x",
        LEAST_TIMES,
        ours,
        "times",
        judge_at_most(1 / LEAST_TIMES, 1 / ours, reach=inf),
        f"That is {NAMES[nearest]}, after as many epochs as with ViT-B; for FL it holds with the "
        f"{large.fl_rounds:.1f} epochs that its minutes with ViT-B need "
        f"({large.fl_own_times_sft:.2f} times), not after the same {large.rounds:.2f} as the "
        f"others ({large.times_sft('fl-lora'):.2f}).",
    )


def _fl_gap(base: Evaluation, large: Evaluation) -> Claim:
    before, after = base.fl_own_times_sft, large.fl_own_times_sft
    verdict = judge_larger(before, after, noise=0.0)
    turned = "narrows" if verdict is Verdict.ORDERING else "widens"
    return Claim(
        "delay of FL over that of SFT, ViT-L against ViT-B",
        "the gap narrows",
        None,
        after,
        "times",
        verdict,
        f"From {before:.2f} with ViT-B it {turned} to {after:.2f} with ViT-L: FL computes the whole"
        f" model on the device, whose time grows {_growth(base, large):.1f} times, activations only"
        f" {large.setting.dimensions.width / base.setting.dimensions.width:.2f} times.",
    )


def _growth(base: Evaluation, large: Evaluation) -> float:
    """How many times FL's delay grows."""
    return large.fl_own_minutes / base.fl_own_minutes
