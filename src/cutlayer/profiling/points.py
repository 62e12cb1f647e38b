"""Lines of the log made into a profile.

Knows what a profile says of each setting; trains nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy.profile import Point, Profile
from cutlayer.profiling.grid import PUBLISHED, SAME_SYMBOLS, Setting
from cutlayer.profiling.log import Key, Line
from cutlayer.profiling.trainer import Wanted
from cutlayer.profiling.training import training_text


@dataclass(frozen=True)
class About:
    """What a profile says of itself: the job, how it was asked for, what accuracies are of."""

    config: Config
    command: str
    seeds: tuple[int, ...]
    test_samples: int


def profile_of(about: About, settings: Sequence[Setting], lines: Mapping[Key, Line]) -> Profile:
    """The points of the settings, each with the accuracies of all seeds.

    A training that diverged counts with what its last finished round left. Bits are means over the
    seeds that finished any round; a setting that never did is left out. Raises ConfigError where
    even training without a codec did not.
    """
    config = about.config
    points = [
        point
        for setting in settings
        for point in _points(setting, [lines[Wanted(setting, seed).key] for seed in about.seeds])
    ]
    if not points or points[0].codec != "none":
        raise ConfigError(
            "profile: training diverges in its first round even without a codec; lower"
            f" optimizer.learning_rate {config.optimizer.learning_rate:g}"
        )
    return Profile(
        model=config.model.name,
        data=config.data.name,
        cut=config.model.cut,
        training=training_text(config),
        command=about.command,
        test_samples=about.test_samples,
        seeds=about.seeds,
        points=tuple(points),
    )


def _points(setting: Setting, lines: Sequence[Line]) -> Iterator[Point]:
    """The point of a setting, and that of the codec which sends the same symbols, if any."""
    accuracies = tuple(line.accuracy for line in lines)
    ways = [(setting, [(line.bits_up, line.bits_down) for line in lines])]
    if setting.codec == PUBLISHED:
        other = [(line.same_symbols_bits_up, line.same_symbols_bits_down) for line in lines]
        ways.append((replace(setting, codec=SAME_SYMBOLS), other))
    for one, bits in ways:
        up = [value for value, _ in bits if value is not None]
        down = [value for _, value in bits if value is not None]
        if up and down:
            yield Point(one.codec, one.values, mean(up), mean(down), accuracies)
