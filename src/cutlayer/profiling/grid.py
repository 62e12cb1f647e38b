"""Which settings of the codec are trained: none, the published symbols on a grid, `best`, `fast`.

Knows the codec section of a configuration, and no job.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cutlayer.codec.staged import CodecPair
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import make_codecs
from cutlayer.profiling.training import ShadowCodec

# `paper-rans` sends the symbols of `paper` in fewer bytes: one training gives the points of both
PUBLISHED, SAME_SYMBOLS = "paper", "paper-rans"
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
                yield CodecSetting(PUBLISHED, {"keep_ratio": keep_ratio, "levels": 2**bits - 1})
        for up, down in self.targets:
            yield CodecSetting("best", {"target_bits_up": up, "target_bits_down": down})
        yield CodecSetting("fast")


# from the least that trains at all to what loses next to nothing, by `experiments/codec_accuracy`
TARGETS = ((0.22, 0.1), (0.26, 0.12), (0.42, 0.24), (0.7, 0.4), (1.0, 0.6))
GRID = CodecGrid((0.05, 0.1, 0.2, 0.35, 0.5), (2, 3, 4, 6), TARGETS)
QUICK_GRID = CodecGrid((0.1, 0.5), (2, 4), TARGETS[-1:])


def codecs_of(setting: CodecSetting, packets: int) -> CodecPair:
    """The codecs of a setting, for streams of so many packets.

    Those of `paper` also count, both ways, what `paper-rans` would have sent.
    """
    pair = _pair(setting, packets)
    if setting.codec != PUBLISHED:
        return pair
    other = _pair(replace(setting, codec=SAME_SYMBOLS), packets)
    return CodecPair(ShadowCodec(pair.up, other.up), ShadowCodec(pair.down, other.down))


def _pair(setting: CodecSetting, packets: int) -> CodecPair:
    config = Config.model_validate({"codec": {"name": setting.codec, **setting.values}})
    return make_codecs(config.codec, packets)
