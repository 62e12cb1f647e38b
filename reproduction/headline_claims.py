"""Every number of the paper's abstract, introduction and Section VIII that needs no training."""

from collections.abc import Sequence
from decimal import Decimal

from cutlayer.rounds.memory import PAPER
from cutlayer.rounds.parameters import vit_spec
from cutlayer.spec import Trained
from cutlayer.units import GIB, MIB
from reproduction import fig8_claims, fig10_claims, fig11_claims, fig12_claims, fig13_claims
from reproduction.calibrated import calibrated_memory
from reproduction.claims import Claim, judge_number, judge_reduction
from reproduction.evaluation import Evaluation
from reproduction.fig7_claims import CODED_RATIO, PAPER_WIDTH, SPARSIFIED_RATIO, indexed_ratio
from reproduction.fig7_grid import CLAIMED
from reproduction.fig8_methods import coded, nearest_to
from reproduction.fig10_rounds import Delays
from reproduction.fit import FL_MINUTES, PRINTED_MINUTES, SFT_MINUTES

ABSTRACT_DELAY_PERCENT = Decimal("66.4")
ABSTRACT_VOLUME_PERCENT = Decimal("93.6")
MEMORY_PERCENT = Decimal("58.2")
EPOCH_GIGABYTES = Decimal("2.81")
# "5,000 data samples and 196 tokens": a device's part of the introduction's example
_EXAMPLE_SAMPLES = 5_000


def claims_of(
    cifar: Evaluation,
    tiny: Evaluation,
    large: Evaluation,
    twenty: Evaluation,
    allocated: Sequence[Delays],
) -> tuple[Claim, ...]:
    """Delays, volumes, the abstract, memory, the codec, robustness, the planner.

    `allocated`: rounds by allocation of the paper's band, a value for each reading.
    """
    return (
        *fig11_claims.claims_of(cifar, tiny),
        *fig8_claims.claims_of(cifar),
        _abstract_delay(cifar),
        _abstract_volume(),
        _memory(cifar),
        _sparsified(),
        _coded(),
        _epoch_volume(cifar),
        *fig12_claims.claims_of(cifar, large),
        *fig13_claims.claims_of(cifar, twenty),
        fig10_claims.reduction(allocated),
    )


def _reduction(before: Decimal) -> float:
    """By how much SFT's printed minutes are below `before` [%]."""
    return 100 * (1 - float(SFT_MINUTES / before))


def _abstract_delay(cifar: Evaluation) -> Claim:
    ours = 100 * (1 - 1 / cifar.times_sft("sl"))
    body = {name: _reduction(printed) for name, printed in PRINTED_MINUTES.items()}
    return Claim(
        "delay reduced, abstract",
        f"up to {ABSTRACT_DELAY_PERCENT} %",
        ABSTRACT_DELAY_PERCENT,
        ours,
        "%",
        judge_reduction(ABSTRACT_DELAY_PERCENT, ours, implied=fig11_claims.largest_reduction()),
        f"The text's own minutes make it {_reduction(FL_MINUTES):.1f} % against FL, "
        f"{body['sft-uncompressed']:.1f} % against SFT w/o compression, "
        f"{body['splitlora-paper']:.1f} % against SplitLoRA, {body['sl']:.1f} % against SL.",
    )


def _abstract_volume() -> Claim:
    ratio, volumes = fig8_claims.UNCOMPRESSED_TIMES_SFT, fig8_claims.SL_TIMES_SFT
    body, against_sl = (100 * (1 - 1 / float(times)) for times in (ratio, volumes))
    ours = 100 - nearest_to(float(fig8_claims.SENT_PERCENT))[1].percent
    return Claim(
        "communication reduced, abstract",
        f"up to {ABSTRACT_VOLUME_PERCENT} %",
        ABSTRACT_VOLUME_PERCENT,
        ours,
        "%",
        judge_reduction(ABSTRACT_VOLUME_PERCENT, ours, implied=body),
        f"The text's {ratio} times make it {body:.1f} % against SFT w/o compression and its "
        f"{volumes} times {against_sl:.1f} % against SL; {ABSTRACT_VOLUME_PERCENT} % would be "
        f"{100 / float(100 - ABSTRACT_VOLUME_PERCENT):.1f} times.",
    )


def _memory(cifar: Evaluation) -> Claim:
    dimensions, samples = cifar.setting.dimensions, cifar.setting.batch_samples
    split = calibrated_memory(dimensions, cifar.setting.cut, samples)
    whole = calibrated_memory(dimensions, dimensions.blocks, samples, trained=Trained.WEIGHTS)
    ours = 100 * (1 - split.total / whole.total)
    return Claim(
        "device memory reduced against FL",
        f"{MEMORY_PERCENT} %",
        MEMORY_PERCENT,
        ours,
        "%",
        judge_reduction(MEMORY_PERCENT, ours),
        f"By the accounting that Table III follows: {split.total / MIB:.0f} of "
        f"{whole.total / MIB:.0f} MiB; its FL columns' activations are not reproduced exactly, see "
        "table3.",
    )


def _sparsified() -> Claim:
    ours = indexed_ratio(PAPER_WIDTH, CLAIMED, sign=False)
    return Claim(
        f"compression at {CLAIMED}",
        f"{SPARSIFIED_RATIO}x",
        SPARSIFIED_RATIO,
        ours,
        "times",
        judge_number(SPARSIFIED_RATIO, ours),
        "Index and level bits of the kept values; with the sign, which they leave out, it is "
        f"{indexed_ratio(PAPER_WIDTH, CLAIMED, sign=True):.2f}.",
    )


def _coded() -> Claim:
    ours = coded(CLAIMED).ratio
    return Claim(
        f"compression at {CLAIMED} with lossless coding",
        f"{CODED_RATIO}x",
        CODED_RATIO,
        ours,
        "times",
        judge_number(CODED_RATIO, ours),
        "Expected bytes of the paper's codec: Golomb gaps, level and sign bits; fig7 measures it "
        "on real activations.",
    )


def _epoch_volume(cifar: Evaluation) -> Claim:
    setting = cifar.setting
    batches = _EXAMPLE_SAMPLES // setting.batch_samples
    traffic = PAPER.traffic(vit_spec(setting.dimensions), setting.cut, setting.batch)
    ours = batches * traffic.activation_bytes / GIB
    return Claim(
        "activations of an epoch, introduction",
        f"{EPOCH_GIGABYTES} GB",
        EPOCH_GIGABYTES,
        ours,
        "GiB",
        judge_number(EPOCH_GIGABYTES, ours),
        f"{batches} full mini-batches of {setting.batch_samples} x {setting.batch.tokens} x "
        f"{setting.dimensions.width} float32 values, one way, in units of 2^30 bytes.",
    )
