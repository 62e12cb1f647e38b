"""The setting of the paper's evaluation as a value, and the readings of what it leaves open.

Knows what each scheme's round takes there: seconds by the timeline, bytes by the same amounts. Says
nothing of how many rounds there are; `fit` does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cutlayer.channel.fading import SnrChannel
from cutlayer.channel.rates import LinkRates
from cutlayer.rounds.memory import PAPER, PHYSICAL, Accounting
from cutlayer.rounds.parameters import VIT_BASE, VIT_LARGE, Dimensions, vit_spec
from cutlayer.rounds.schemes import DeviceOrder, Phase, Place, Scheme
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, Rules, Sharing, round_work
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
    steps on each device. Samples are spread evenly, and so is the band.
    """

    dimensions: Dimensions = VIT_BASE
    cut: int = 5
    batch_samples: int = 64
    samples: int = 50_000
    device_flops_per_s: tuple[float, ...] = (DEVICE_FLOPS_PER_S,) * 8
    server_flops_per_s: float = SERVER_FLOPS_PER_S
    bandwidth_hz: float = 5e6
    snr_db: float = 17.0
    compression_ratio: float = COMPRESSION_RATIO
    accounting: Accounting = PAPER
    rules: Rules = field(default_factory=Rules)

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
    """Even shares; devices in turn have the band to themselves."""
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
# other readings of the same text, by what they change
READINGS: Mapping[str, Setting] = {
    "as taken here": EVALUATION,
    "gradients in turn on the full band": replace(
        EVALUATION, rules=Rules(downlink=Sharing.IN_TURN)
    ),
    "devices of 0.5 to 1.5 GHz": replace(EVALUATION, device_flops_per_s=spread_devices(8)),
    "server of 328 TFLOP/s (the text's)": replace(
        EVALUATION, server_flops_per_s=TEXT_SERVER_FLOPS_PER_S
    ),
    "30 MHz (Table II)": replace(EVALUATION, bandwidth_hz=30e6),
    "physical FLOPs and bytes": replace(EVALUATION, accounting=PHYSICAL),
}
