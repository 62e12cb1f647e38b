"""Which settings of the codec are trained (none, the published symbols on a grid, `best`, `fast`),
and in which ways the device part is.

Knows the codec and the device part of a configuration; no job.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import Codec, CodecPair, CodecState, Decoded, Encoded, part_of, under
from cutlayer.config.choices import BestCodec
from cutlayer.config.schema import Config, WarmDevicePart
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import make_codecs
from cutlayer.planner.profile import TRAINED

# The grid.


# `paper-rans` sends the symbols of `paper` in fewer bytes: one training run gives both points
PUBLISHED_CODEC, SAME_SYMBOLS_CODEC = "paper", "paper-rans"
MOST_BITS = 8


@dataclass(frozen=True)
class CodecSetting:
    """A codec and its settings, by the keys of the configuration's codec section."""

    codec: str
    values: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        words = (f"{key.replace('_', ' ')} {value:g}" for key, value in self.values.items())
        return ", ".join((self.codec, *words))


@dataclass(frozen=True)
class CodecGrid:
    """Keep ratios x bits of the published symbols, and bits per value (up, down) of `best`.

    q bits are `levels` = 2^q - 1 intervals, the sign not counted (SFT (17)). Raises ConfigError for
    an empty axis, a keep ratio outside (0, 1] or bits outside 1 to 8.
    """

    keep_ratios: Sequence[float]
    bits: Sequence[int]
    targets: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        if not self.keep_ratios or not self.bits:
            raise ConfigError("profile: give at least one keep ratio and one number of bits")
        for keep_ratio in self.keep_ratios:
            if not 0 < keep_ratio <= 1:
                raise ConfigError(
                    f"profile: keep ratio {keep_ratio:g}: it is above 0 and at most 1"
                )
        for bits in self.bits:
            if not 1 <= bits <= MOST_BITS:
                raise ConfigError(f"profile: {bits} bits: whole numbers from 1 to {MOST_BITS}")

    def settings(self) -> Iterator[CodecSetting]:
        """What is trained, each once; without a codec first, for the others to be held against."""
        yield CodecSetting("none")
        for keep_ratio in sorted(set(self.keep_ratios)):
            for bits in sorted(set(self.bits)):
                yield CodecSetting(
                    PUBLISHED_CODEC, {"keep_ratio": keep_ratio, "levels": 2**bits - 1}
                )
        for up, down in self.targets:
            yield CodecSetting("best", {"target_bits_up": up, "target_bits_down": down})
        yield CodecSetting("fast")


# the device part is trained, frozen and warm through what a configuration without a codec has
DEFAULT_CODEC = CodecSetting(
    "best",
    {
        "target_bits_up": BestCodec().target_bits_up,
        "target_bits_down": BestCodec().target_bits_down,
    },
)
# twelfths of the blocks below the usual cuts
_DEPTHS, _OF = (1, 4, 8, 10), 12


@dataclass(frozen=True)
class DevicePartSetting:
    """A cut, and what becomes of the device part there: `trained`, `frozen`, or `warm`, trained in
    the first `rounds`."""

    cut: int
    name: str
    rounds: int | None = None

    def __str__(self) -> str:
        return f"cut {self.cut}, device part {self.name}"

    def of(self, config: Config) -> Config:
        """The configuration with this cut and device part, whatever a device's memory: it decides
        what can be trained there, not how well."""
        values = {"name": self.name, "rounds": self.rounds}
        changes = {
            "model": config.model.model_copy(update={"cut": self.cut}),
            "devices": config.devices.model_copy(update={"memory_mib": None}),
            "device_part": {key: value for key, value in values.items() if value is not None},
        }
        return Config.model_validate({**dict(config), **changes})


def device_parts(
    config: Config, cuts: Sequence[int] | None, blocks: int
) -> tuple[DevicePartSetting, ...]:
    """What is trained at these cuts (None: the configuration's and four others); warm where a round
    is left after the first. Raises ConfigError for a cut that a model of so many `blocks` has not.
    """
    usual = {min(max(1, round(depth * blocks / _OF)), blocks - 1) for depth in _DEPTHS}
    for cut in cuts or ():
        if not 1 <= cut < blocks:
            raise ConfigError(
                f"cut {cut}: {config.model.name} has {blocks} blocks: 1..{blocks - 1}",
                thing="cuts",
            )
    part = config.device_part
    warm = part.rounds if isinstance(part, WarmDevicePart) else 1
    return tuple(
        setting
        for cut in sorted(usual | {config.model.cut} if cuts is None else set(cuts))
        for setting in (
            DevicePartSetting(cut, TRAINED),
            DevicePartSetting(cut, "frozen"),
            DevicePartSetting(cut, "warm", warm),
        )
        if setting.rounds is None or setting.rounds < config.training.rounds
    )


# from the least that trains at all to what loses next to nothing, by `experiments/codec_accuracy`
BEST_TARGETS = ((0.22, 0.1), (0.26, 0.12), (0.42, 0.24), (0.7, 0.4), (1.0, 0.6))
FULL_GRID = CodecGrid((0.05, 0.1, 0.2, 0.35, 0.5), (2, 3, 4, 6), BEST_TARGETS)
QUICK_GRID = CodecGrid((0.1, 0.5), (2, 4), BEST_TARGETS[-1:])


def codecs_of(setting: CodecSetting, packets: int) -> CodecPair:
    """The codecs of a setting, for streams of so many packets.

    Those of `paper` also count, both ways, what `paper-rans` would have sent.
    """
    pair = _pair(setting, packets)
    if setting.codec != PUBLISHED_CODEC:
        return pair
    other = _pair(replace(setting, codec=SAME_SYMBOLS_CODEC), packets)
    return CodecPair(ShadowCodec(pair.up, other.up), ShadowCodec(pair.down, other.down))


def _pair(setting: CodecSetting, packets: int) -> CodecPair:
    config = Config.model_validate({"codec": {"name": setting.codec, **setting.values}})
    return make_codecs(config.codec, packets)


_OWN, _OTHER, _BYTES = "own.", "other.", "other bytes"


@final
@dataclass(frozen=True)
class ShadowCodec(Codec):
    """Sends what `codec` makes; the sender's state sums what `other` makes of the same tensors.

    Both start from the same generator state, so codecs that draw alike round alike.
    """

    codec: Codec
    other: Codec
    name: ClassVar[str] = "shadow"

    def encode(
        self,
        tensor: Float32[np.ndarray, "..."],
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        same_rng = copy.deepcopy(rng)
        own = self.codec.encode(tensor, part_of(state, _OWN), rng, lengths=lengths, samples=samples)
        other = self.other.encode(
            tensor, part_of(state, _OTHER), same_rng, lengths=lengths, samples=samples
        )
        total = other_bytes(state) + len(other.packet)
        after = {**under(_OWN, own.state), **under(_OTHER, other.state), _BYTES: np.array(total)}
        return Encoded(own.packet, after)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        return self.codec.decode(packet, shape, state)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return self.codec.expected_bytes(shape)


def other_bytes(state: CodecState) -> int:
    """Bytes that the other codec has made so far, by the sender's state; 0 without one."""
    return int(state[_BYTES]) if _BYTES in state else 0
