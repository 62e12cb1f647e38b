"""What the paper's evaluation comes to by the fitted local steps: minutes and bytes of each scheme.

Knows no claim and no picture; headline, fig8, fig11, fig12 and fig13 judge and draw it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cutlayer.rounds.schemes import SCHEMES, Phase
from reproduction.fit import Fit, fit, fl_rounds
from reproduction.setting import EVALUATION, Setting, gigabytes, minutes_of

# those of the paper's figures, in their order; FL is FL with LoRA
NAMES: Mapping[str, str] = {
    "sft": "SFT",
    "fl-lora": "FL",
    "sft-uncompressed": "SFT w/o compression",
    "splitlora-paper": "SplitLoRA",
    "sl": "SL",
}
SPLIT_RIVALS = ("sft-uncompressed", "splitlora-paper", "sl")
STEP_PHASES = (Phase.ACTIVATION_UP, Phase.GRADIENT_DOWN)


@dataclass(frozen=True)
class Evaluation:
    """A setting after as many rounds of one epoch as the paper's minutes on ViT-B imply.

    `minutes` by scheme, all after the same rounds; `fl_own_minutes` are FL's after `fl_rounds`, the
    number that its printed minutes need.
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
