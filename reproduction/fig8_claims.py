"""What the paper's text says of Fig. 8: gigabytes of whole trainings, and what compression saves.

The volumes belong to other numbers of epochs than the minutes of Fig. 11 do; each claim says so.
"""

from decimal import Decimal

from cutlayer.rounds.schemes import SCHEMES
from cutlayer.units import GIB
from reproduction.claims import Claim, judge_number
from reproduction.evaluation import NAMES, Evaluation, step_gigabytes
from reproduction.fig7_grid import CLAIMED
from reproduction.fig8_methods import coded, nearest_to
from reproduction.fit import PRINTED_MINUTES
from reproduction.setting import minutes

SL_GIGABYTES = Decimal("144.76")
SL_TIMES_SFT = Decimal("6.7")
UNCOMPRESSED_TIMES_SFT = Decimal("14.75")
SENT_PERCENT = Decimal("6.8")
# what the three numbers make of the other two schemes [10^9 byte]
SFT_GIGABYTES = float(SL_GIGABYTES / SL_TIMES_SFT)
UNCOMPRESSED_GIGABYTES = SFT_GIGABYTES * float(UNCOMPRESSED_TIMES_SFT)


def claims_of(cifar: Evaluation) -> tuple[Claim, ...]:
    """The volume of SL, SFT's part of it, and twice what compression leaves."""
    return (_sl_volume(cifar), _sl_times(cifar), _uncompressed_times(), _sent())


def steps_of(printed_gigabytes: float) -> float:
    """Local steps a device in which uncompressed activations and gradients are so many bytes."""
    return printed_gigabytes / step_gigabytes()


def _sl_volume(cifar: Evaluation) -> Claim:
    ours = sum(cifar.gigabytes("sl").values())
    gib = ours * 1e9 / GIB
    steps = [steps_of(float(SL_GIGABYTES) * unit) for unit in (1.0, GIB / 1e9)]
    low, high = (minutes(cifar.setting, SCHEMES["sl"], count) for count in steps)
    return Claim(
        "volume of SL",
        f"{SL_GIGABYTES} GB",
        SL_GIGABYTES,
        ours,
        "GB",
        judge_number(SL_GIGABYTES, ours, implied=ours),
        f"The {PRINTED_MINUTES['sl']} min of SL are {cifar.local_steps:.0f} steps a device, which "
        f"send {ours:.1f} GB ({gib:.1f} GiB); {SL_GIGABYTES} GB would be sent in {low:.0f} min, as "
        f"many GiB in {high:.0f}.",
    )


def _sl_times(cifar: Evaluation) -> Claim:
    ours = sum(cifar.gigabytes("sl").values()) / sum(cifar.gigabytes("sft").values())
    steps = steps_of(UNCOMPRESSED_GIGABYTES)
    taken = minutes(cifar.setting, SCHEMES["sft-uncompressed"], steps)
    ratio = UNCOMPRESSED_GIGABYTES / float(SL_GIGABYTES)
    return Claim(
        "volume of SL over that of SFT",
        f"{SL_TIMES_SFT} times",
        SL_TIMES_SFT,
        ours,
        "times",
        judge_number(SL_TIMES_SFT, ours, implied=ours),
        f"An epoch of SL sends what one of {NAMES['sft-uncompressed']} does, so SFT would have to "
        f"train {ratio:.1f} times as many epochs as SL, where their minutes need as many; "
        f"{NAMES['sft-uncompressed']} would send {UNCOMPRESSED_GIGABYTES:.1f} GB, in {taken:.0f} "
        f"min instead of {PRINTED_MINUTES['sft-uncompressed']}.",
    )


def _uncompressed_times() -> Claim:
    point, method = nearest_to(float(SENT_PERCENT))
    return Claim(
        f"volume of {NAMES['sft-uncompressed']} over that of SFT",
        f"{UNCOMPRESSED_TIMES_SFT} times",
        UNCOMPRESSED_TIMES_SFT,
        method.ratio,
        "times",
        judge_number(UNCOMPRESSED_TIMES_SFT, method.ratio),
        f"Which point of the codec it is the text does not say: with {point.sparsity:g} % dropped "
        f"{point.bits} bits come nearest; the 20x of Fig. 7 is another point ({CLAIMED}: "
        f"{coded(CLAIMED).ratio:.1f}). Our minutes take {UNCOMPRESSED_TIMES_SFT} as given.",
    )


def _sent() -> Claim:
    point, method = nearest_to(float(SENT_PERCENT))
    return Claim(
        "part of the activations that is sent",
        f"{SENT_PERCENT} %",
        SENT_PERCENT,
        method.percent,
        "%",
        judge_number(SENT_PERCENT, method.percent, implied=100 / float(UNCOMPRESSED_TIMES_SFT)),
        f"It is 1 / {UNCOMPRESSED_TIMES_SFT}; the paper's codec comes to {method.percent:.2f} % at "
        f"{point} and to {coded(CLAIMED).percent:.2f} % at {CLAIMED}, by expected bytes.",
    )
