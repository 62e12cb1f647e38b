"""The paper's evaluation: its setting, the one constant fitted to it, minutes and bytes by scheme;
and the published codec at a point: how sparse, how many bits, which codec, how many bytes.

The setting is a value, with interpretations of what the paper leaves open; a scheme's round in it
takes seconds by the timeline, and bytes by the same amounts. The paper prints minutes to a target
accuracy and never how many local steps those are. Of the split schemes all minutes follow from one
number of steps, found by `fit`; FL's does not, see `fl_rounds`. Knows no claim and no picture.

A point's bytes are by arithmetic for what is not coded, by `expected_bytes` of our codecs for what
is: independent Laplace values, at the shape of ViT-B's activation.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np

from cutlayer.channel.fading import SnrChannel
from cutlayer.channel.rates import LinkRates
from cutlayer.codec.codec import CodecPair
from cutlayer.codec.presets import none, paper, paper_rans
from cutlayer.profiling.grid import ShadowCodec
from cutlayer.rounds.memory import PAPER_ACCOUNTING, PHYSICAL_ACCOUNTING, Accounting
from cutlayer.rounds.schemes import FL_LORA, SCHEMES, DeviceOrder, Phase, Place, Scheme
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.vit import VIT_BASE, VIT_LARGE, VitDimensions, vit_spec
from cutlayer.rounds.work import DeviceRates, DeviceWork, Sharing, SharingRules, round_work
from cutlayer.spec import MiniBatch

SECONDS_PER_MINUTE = 60.0
# 256 cores, 4 operations a clock, 1 GHz: the middle of the text's 0.5 to 1.5 GHz (Section VIII-A)
DEVICE_FLOPS_PER_HZ = 256 * 4
DEVICE_FLOPS_PER_S = DEVICE_FLOPS_PER_HZ * 1e9
# Table II: 2048 cores at 1.5 GHz, an operation a clock
SERVER_FLOPS_PER_S = 2048 * 1.5e9
# the text: 2048 cores, 4 operations a clock, 40 GHz
TEXT_SERVER_FLOPS_PER_S = 2048 * 4 * 40e9
# "without compression, our scheme would require 14.75 times more data transmission"
COMPRESSION_RATIO = 14.75


@dataclass(frozen=True)
class Setting:
    """Section VIII-A, with a value for each thing that it says twice or not at all.

    `device_flops_per_s` has one rate for each device. `compression_ratio` is how many times fewer
    bytes SFT sends than float32, in both directions. A round is one epoch: `epoch_steps` local
    steps on each device. Samples are spread evenly, and so is the bandwidth.
    """

    dimensions: VitDimensions = VIT_BASE
    cut: int = 5
    batch_samples: int = 64
    samples: int = 50_000
    device_flops_per_s: tuple[float, ...] = (DEVICE_FLOPS_PER_S,) * 8
    server_flops_per_s: float = SERVER_FLOPS_PER_S
    bandwidth_hz: float = 5e6
    snr_db: float = 17.0
    compression_ratio: float = COMPRESSION_RATIO
    accounting: Accounting = PAPER_ACCOUNTING
    rules: SharingRules = field(default_factory=SharingRules)

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len(self.device_flops_per_s)

    @property
    def batch(self) -> MiniBatch:
        """A mini-batch: 197 tokens, since the class token is sent too (Section V-D has 196)."""
        return MiniBatch(self.batch_samples, self.dimensions.tokens)

    @property
    def epoch_steps(self) -> int:
        """Local steps of a device in one epoch, hence in a round; a last small batch counts."""
        return math.ceil(self.samples / (self.devices * self.batch_samples))


@dataclass(frozen=True)
class Minutes:
    """A scheme's virtual minutes as a line: `start + each_step * S` for S local steps a device."""

    start: float
    each_step: float

    def after(self, local_steps: float) -> float:
        """Minutes of `local_steps` on each device."""
        return self.start + self.each_step * local_steps


def minutes_of(setting: Setting, scheme: Scheme) -> Minutes:
    """Rounds of one epoch by the timeline; the first distributes the model.

    Of a last round that is not full its part is counted, so the line is exact at whole rounds.
    """
    first, later = (_round_minutes(setting, scheme, first_round=first) for first in (True, False))
    return Minutes(start=first - later, each_step=later / setting.epoch_steps)


def minutes(setting: Setting, scheme: Scheme, local_steps: float) -> float:
    """Virtual minutes of `local_steps` on each device; see `minutes_of`."""
    return minutes_of(setting, scheme).after(local_steps)


def gigabytes(setting: Setting, scheme: Scheme, local_steps: float) -> Mapping[Phase, float]:
    """What all devices send and receive in `local_steps` each [10^9 byte], by phase.

    Of a last round that is not full its part is counted, as in `minutes_of`; a broadcast is sent
    once for all devices.
    """
    first, later = (_round_bytes(setting, scheme, first_round=first) for first in (True, False))
    rounds = local_steps / setting.epoch_steps
    return {phase: (first[phase] + (rounds - 1.0) * later[phase]) / 1e9 for phase in first}


def _round_bytes(setting: Setting, scheme: Scheme, *, first_round: bool) -> dict[Phase, float]:
    work = round_works(setting, scheme, first_round=first_round)
    sent: dict[Phase, float] = {}
    for step in (*scheme.opening, *scheme.local, *scheme.closing):
        if step.sends:
            each = [float(device.payload_bytes(step).sum()) for device in work]
            sent[step.phase] = each[0] if step.place is Place.BROADCAST else sum(each)
    return sent


def _round_minutes(setting: Setting, scheme: Scheme, *, first_round: bool) -> float:
    work = round_works(setting, scheme, first_round=first_round)
    return simulate(scheme, work, setting.rules).delay_s / SECONDS_PER_MINUTE


def round_works(setting: Setting, scheme: Scheme, *, first_round: bool) -> list[DeviceWork]:
    """Each device's work in a round of one epoch."""
    return work_of(setting, scheme, _links(setting, scheme), first_round=first_round)


def work_of(
    setting: Setting, scheme: Scheme, links: Sequence[LinkRates], *, first_round: bool
) -> list[DeviceWork]:
    """Each device's work in a round of one epoch, on links that may be other than the setting's."""
    model = vit_spec(setting.dimensions)
    return [
        round_work(
            scheme,
            model,
            setting.cut,
            setting.batch,
            setting.epoch_steps,
            setting.accounting,
            DeviceRates(flops_per_s, setting.server_flops_per_s, link),
            compression_up=1.0 / setting.compression_ratio,
            compression_down=1.0 / setting.compression_ratio,
            first_round=first_round,
        )
        for flops_per_s, link in zip(setting.device_flops_per_s, links, strict=True)
    ]


def channel_of(setting: Setting) -> SnrChannel:
    """One ratio for all devices and both directions."""
    ratios_db = np.full(setting.devices, setting.snr_db)
    return SnrChannel(setting.bandwidth_hz, ratios_db, ratios_db)


def _links(setting: Setting, scheme: Scheme) -> tuple[LinkRates, ...]:
    """Even shares; devices in turn have the bandwidth to themselves."""
    links = channel_of(setting).rates(1, 0.0, [1.0 / setting.devices] * setting.devices)
    if scheme.devices is DeviceOrder.IN_TURN:
        return tuple(link.alone() for link in links)
    return links


def spread_devices(count: int) -> tuple[float, ...]:
    """FLOP/s of devices evenly from 0.5 to 1.5 GHz: the range that the text draws from."""
    hertz = np.linspace(0.5e9, 1.5e9, count)
    return tuple(float(each) * DEVICE_FLOPS_PER_HZ for each in hertz)


# which value of each quantity the paper's minutes agree with: see `headline`
EVALUATION = Setting()
LARGE_MODEL = replace(EVALUATION, dimensions=VIT_LARGE)
TWENTY_DEVICES = replace(EVALUATION, device_flops_per_s=(DEVICE_FLOPS_PER_S,) * 20)
TINY_IMAGENET = replace(
    EVALUATION, samples=100_000, dimensions=replace(VIT_BASE, name="ViT-B/16", classes=200)
)
# other interpretations of the same text, by what they change
INTERPRETATIONS: Mapping[str, Setting] = {
    "as taken here": EVALUATION,
    "gradients in turn on the full bandwidth": replace(
        EVALUATION, rules=SharingRules(downlink=Sharing.IN_TURN)
    ),
    "devices of 0.5 to 1.5 GHz": replace(EVALUATION, device_flops_per_s=spread_devices(8)),
    "server of 328 TFLOP/s (the text's)": replace(
        EVALUATION, server_flops_per_s=TEXT_SERVER_FLOPS_PER_S
    ),
    "30 MHz (Table II)": replace(EVALUATION, bandwidth_hz=30e6),
    "physical FLOPs and bytes": replace(EVALUATION, accounting=PHYSICAL_ACCOUNTING),
}


# Section VIII-B.5, CIFAR-100, not IID; SplitLoRA is given as 11.96 times SFT
SFT_MINUTES = Decimal("81.4")
FL_MINUTES = Decimal("419.6")
PUBLISHED_MINUTES: Mapping[str, Decimal] = {
    "sft": SFT_MINUTES,
    "sft-uncompressed": Decimal("906.9"),
    "splitlora-paper": Decimal("973.5"),
    "sl": Decimal("1071.1"),
}


@dataclass(frozen=True)
class Fit:
    """The best number of local steps of a setting, and how far each scheme's minutes are off then.

    `deviations` are parts of the published minutes: 0.02 is 2 % above.
    """

    local_steps: float
    rounds: float
    minutes: Mapping[str, float]
    deviations: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest deviation, either way."""
        return max(abs(deviation) for deviation in self.deviations.values())


def fit(setting: Setting = EVALUATION) -> Fit:
    """The local steps that make the worst relative deviation from `PUBLISHED_MINUTES` least."""
    lines = {name: minutes_of(setting, SCHEMES[name]) for name in PUBLISHED_MINUTES}
    steps = least_worst([_deviation(lines[name], PUBLISHED_MINUTES[name]) for name in lines])
    fitted = {name: line.after(steps) for name, line in lines.items()}
    deviations = {name: fitted[name] / float(PUBLISHED_MINUTES[name]) - 1.0 for name in fitted}
    return Fit(steps, steps / setting.epoch_steps, fitted, deviations)


def fl_rounds(setting: Setting = EVALUATION) -> float:
    """Rounds of one epoch in which FL with LoRA takes the published minutes: a constant of its own.

    FL with LoRA and SFT without compression are the same training, so one constant should do.
    """
    line = minutes_of(setting, FL_LORA)
    return (float(FL_MINUTES) - line.start) / line.each_step / setting.epoch_steps


def _deviation(line: Minutes, published: Decimal) -> Minutes:
    """The relative deviation is a line in the steps too."""
    return Minutes(line.start / float(published) - 1.0, line.each_step / float(published))


def least_worst(deviations: Sequence[Minutes]) -> float:
    """The steps at which the largest of |deviations|, which are lines in the steps, is least.

    That largest one is convex and made of pieces of the lines and of their mirror images, so it is
    least where two of them meet.
    """
    mirrored = [Minutes(-line.start, -line.each_step) for line in deviations]
    meetings = [
        (b.start - a.start) / (a.each_step - b.each_step)
        for a, b in itertools.combinations((*deviations, *mirrored), 2)
        if a.each_step != b.each_step
    ]
    return min(meetings, key=lambda steps: max(abs(line.after(steps)) for line in deviations))


# those of the paper's figures, in their order; FL is FL with LoRA
NAMES: Mapping[str, str] = {
    "sft": "SFT",
    "fl-lora": "FL",
    "sft-uncompressed": "SFT w/o compression",
    "splitlora-paper": "SplitLoRA",
    "sl": "SL",
}
SPLIT_BASELINES = ("sft-uncompressed", "splitlora-paper", "sl")
STEP_PHASES = (Phase.ACTIVATION_UP, Phase.GRADIENT_DOWN)


@dataclass(frozen=True)
class Evaluation:
    """A setting after as many rounds of one epoch as the paper's minutes on ViT-B imply.

    `minutes` by scheme, all after the same rounds; `fl_own_minutes` are FL's after `fl_rounds`, the
    number that its published minutes need.
    """

    setting: Setting
    rounds: float
    fl_rounds: float
    minutes: Mapping[str, float]
    fl_own_minutes: float

    @property
    def local_steps(self) -> float:
        """Local steps of each device."""
        return self.rounds * self.setting.epoch_steps

    def times_sft(self, scheme: str) -> float:
        """A scheme's minutes over SFT's."""
        return self.minutes[scheme] / self.minutes["sft"]

    @property
    def fl_own_times_sft(self) -> float:
        """FL's minutes after rounds of its own, over SFT's."""
        return self.fl_own_minutes / self.minutes["sft"]

    def gigabytes(self, scheme: str) -> Mapping[Phase, float]:
        """What a scheme moves [10^9 byte], by phase."""
        steps = self.fl_rounds * self.setting.epoch_steps if scheme == "fl-lora" else None
        return gigabytes(self.setting, SCHEMES[scheme], steps or self.local_steps)


def evaluate(setting: Setting, fitted: Fit | None = None) -> Evaluation:
    """`setting` after the rounds that `fitted` found on the paper's main one."""
    found = fitted or fit()
    own = fl_rounds()
    lines = {name: minutes_of(setting, SCHEMES[name]) for name in NAMES}
    steps = found.rounds * setting.epoch_steps
    return Evaluation(
        setting=setting,
        rounds=found.rounds,
        fl_rounds=own,
        minutes={name: line.after(steps) for name, line in lines.items()},
        fl_own_minutes=lines["fl-lora"].after(own * setting.epoch_steps),
    )


def words_of(setting: Setting, *others: Setting) -> str:
    """The setting in one line, for a picture; where `others` have another value, theirs too."""
    seen = (setting, *others)
    names = _listed(one.dimensions.name for one in seen)
    samples = _listed(f"{one.samples:,}" for one in seen)
    devices = _listed(f"{one.devices}" for one in seen)
    return (
        f"{names}, {samples} samples, {devices} devices, {setting.bandwidth_hz / 1e6:g} MHz at "
        f"{setting.snr_db:g} dB, cut after block {setting.cut}, batch {setting.batch_samples}; "
        "computed by the timeline, nothing trained"
    )


def _listed(values: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(values))


def fitted_words(evaluation: Evaluation) -> str:
    """How long the schemes train, in words."""
    return f"{evaluation.local_steps:.1f} local steps a device ({evaluation.rounds:.2f} epochs)"


def step_gigabytes(setting: Setting = EVALUATION) -> float:
    """Uncompressed activations and gradients of one local step of all devices [10^9 byte]."""
    sent = gigabytes(setting, SCHEMES["sft-uncompressed"], 1.0)
    return sum(sent[phase] for phase in STEP_PHASES)


# The published codec at a point.


@dataclass(frozen=True)
class Point:
    """The share of values that is kept (the paper's rho) and q, the bits of a kept one's level.

    A sparsity in the paper's text is 1 - rho. (17) counts levels where the figure counts bits: q
    bits are `levels` = 2^q - 1 intervals between 2^q points, the sign not counted.
    """

    keep_ratio: float
    bits: int

    @property
    def sparsity(self) -> float:
        """The share of values that is dropped, in per cent."""
        return round(100 * (1 - self.keep_ratio), 6)

    @property
    def levels(self) -> int:
        """Intervals of the quantiser."""
        return int(2**self.bits - 1)

    def __str__(self) -> str:
        return f"{self.sparsity:g} % sparsity, {self.bits} bit{'s' if self.bits > 1 else ''}"


FLOAT32_BITS = 32
PAPER_WIDTH = 768  # ViT-B, whose activations the paper compresses
# what it tells of `CLAIMED`: sparse and quantised, and coded on top
SPARSIFIED_RATIO, CODED_RATIO = Decimal("12"), Decimal("20")
# nothing compressed: float32 both ways
UNCOMPRESSED = Point(keep_ratio=1.0, bits=32)
# what the paper calls 80 % sparsity and 3 bits
CLAIMED = Point(0.2, 3)
HALF, SPARSEST_CLAIMED = Point(0.5, 3), Point(0.1, 3)
BY_SPARSITY = (Point(1.0, 3), HALF, Point(0.3, 3), CLAIMED, SPARSEST_CLAIMED, Point(0.05, 3))
BY_BITS = (Point(0.2, 1), Point(0.2, 2), CLAIMED, Point(0.2, 4), Point(0.2, 6))
GRID = (UNCOMPRESSED, *dict.fromkeys(BY_SPARSITY + BY_BITS))
# the least that every claim can be judged by
QUICK_GRID = (UNCOMPRESSED, HALF, CLAIMED, SPARSEST_CLAIMED)


def indexed_ratio(width: int, point: Point, sign: bool) -> float:
    """How many times fewer bits than float32, by a column index for each kept value.

    32 / (rho (ceil(log2 width) + q [+ 1 for the sign])). Source: SFT section VI-B.3, whose 12x is
    this without a sign.
    """
    kept_bits = math.ceil(math.log2(width)) + point.bits + int(sign)
    return FLOAT32_BITS / (point.keep_ratio * kept_bits)


def codecs_of(point: Point) -> CodecPair:
    """`paper` both ways; activations are also counted as `paper-rans` would code them."""
    if point == UNCOMPRESSED:
        return none()
    sent = paper(point.keep_ratio, point.levels)
    same_values = paper_rans(point.keep_ratio, point.levels)
    return CodecPair(ShadowCodec(sent.up, same_values.up), sent.down)


@dataclass(frozen=True)
class Method:
    """A way to compress and the bits that it leaves of each of the activation's values."""

    name: str
    bits: float

    @property
    def percent(self) -> float:
        """What is sent of the float32 activation [%]."""
        return 100 * self.bits / FLOAT32_BITS

    @property
    def ratio(self) -> float:
        """How many times fewer bytes than float32."""
        return FLOAT32_BITS / self.bits


def methods(point: Point = CLAIMED) -> tuple[Method, ...]:
    """From none to all of the paper's, and what our lossless stage makes of the same values.

    With rho the kept share, q the bits of a level and 1 for its sign: `32`, `rho (32 + i)` where i
    bits name the column, `q + 1`, `rho (q + 1 + i)`, and two coded.
    """
    rho, q, i = point.keep_ratio, point.bits, math.ceil(math.log2(EVALUATION.dimensions.width))
    return (
        Method("no compression", FLOAT32_BITS),
        Method("sparsification", rho * (FLOAT32_BITS + i)),
        Method("quantisation", q + 1),
        Method("both, indexed columns", rho * (q + 1 + i)),
        Method("both, lossless coding", coded(point).bits),
        Method("same values, paper-rans", _expected_bits(paper_rans, point)),
    )


def coded(point: Point) -> Method:
    """The paper's codec at a point: Golomb gaps, level and sign bits."""
    return Method(str(point), _expected_bits(paper, point))


def nearest_to(percent: float, keep_ratio: float = CLAIMED.keep_ratio) -> tuple[Point, Method]:
    """The number of bits at which the paper's codec comes nearest to sending `percent`."""
    points = [Point(keep_ratio, bits) for bits in range(1, 9)]
    found = min(points, key=lambda point: abs(coded(point).percent - percent))
    return found, coded(found)


def _expected_bits(preset: Callable[[float, int], CodecPair], point: Point) -> float:
    """Bits for each value of ViT-B's activation."""
    batch = EVALUATION.batch
    shape = (batch.samples, batch.tokens, EVALUATION.dimensions.width)
    return 8 * preset(point.keep_ratio, point.levels).up.expected_bytes(shape) / math.prod(shape)
