"""What was measured: a codec's settings, the bits they took and the accuracy they left.

A profile is for one model, data set and training job. Knows its file, and no training;
`cutlayer profile` made those that come with the package, by the command inside.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

from cutlayer.errors import ConfigError

FORMAT = 1


@dataclass(frozen=True)
class ProfilePoint:
    """One setting of the codec, trained once for each seed.

    `codec` and `settings` are those of the configuration's codec section (`keep_ratio` and
    `levels`, or `target_bits_up` and `target_bits_down`). Bits are per value of activations (up)
    and of gradients (down), packets whole, means over the seeds. `accuracies` are shares of the
    test split, nothing compressed, one a seed, in the profile's order of seeds.
    """

    codec: str
    settings: Mapping[str, float]
    bits_up: float
    bits_down: float
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return mean(self.accuracies)


@dataclass(frozen=True)
class Profile:
    """The points of one training job.

    `training` says in a line what was trained, `command` how the file was made. `seeds` number the
    accuracies of every point. One point, codec `none`, is what the others lose accuracy against.
    Raises ConfigError without it, or for a point whose accuracies are not one a seed.
    """

    model: str
    data: str
    cut: int
    training: str
    command: str
    test_samples: int
    seeds: tuple[int, ...]
    points: tuple[ProfilePoint, ...]

    def __post_init__(self) -> None:
        for point in self.points:
            if len(point.accuracies) != len(self.seeds):
                raise ConfigError(
                    f"profile: {point.codec} {dict(point.settings)} has {len(point.accuracies)}"
                    f" accuracies for {len(self.seeds)} seeds; profile again"
                )
        if sum(point.codec == "none" for point in self.points) != 1:
            raise ConfigError("profile: it needs one point without a codec; profile again")

    @property
    def uncompressed(self) -> ProfilePoint:
        """Trained without a codec."""
        return next(point for point in self.points if point.codec == "none")

    @property
    def loss_error(self) -> float:
        """The standard error of a point's loss against none, a share of the test samples.

        From the spread over the seeds, all points together; of one seed, from the test samples
        alone, since nothing more is known.
        """
        if len(self.seeds) > 1:
            spread = mean(variance(point.accuracies) for point in self.points)
        else:
            spread = mean(p.accuracy * (1 - p.accuracy) for p in self.points) / self.test_samples
        return sqrt(2 * spread / len(self.seeds))

    def of(self, *codecs: str) -> tuple[ProfilePoint, ...]:
        """The points of these codecs."""
        return tuple(point for point in self.points if point.codec in codecs)


def read_profile(path: Path) -> Profile:
    """A profile from its file. Raises ConfigError for a file that is none."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != FORMAT:
            raise ValueError(f"a format other than {FORMAT}")
        points = [
            ProfilePoint(**{**p, "accuracies": tuple(p["accuracies"])}) for p in fields["points"]
        ]
        return Profile(**{**fields, "seeds": tuple(fields["seeds"]), "points": tuple(points)})
    except FileNotFoundError as error:
        raise ConfigError(f"no profile {path}; `cutlayer profile` makes one") from error
    except OSError as error:
        raise ConfigError(f"cannot read the profile {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no profile ({type(error).__name__}: {error}); `cutlayer profile` makes one"
        ) from error


def profile_text(profile: Profile) -> str:
    """What `read_profile` reads."""
    return json.dumps({"format": FORMAT, **asdict(profile)}, indent=1) + "\n"


def packaged_profile(model: str, data: str) -> Profile | None:
    """The profile of a model and data set by their packaged names; None if there is none."""
    for entry in files("cutlayer.planner").joinpath("profiles").iterdir():
        if entry.name.endswith(".json"):
            with as_file(entry) as path:
                profile = read_profile(path)
            if (profile.model, profile.data) == (model, data):
                return profile
    return None
