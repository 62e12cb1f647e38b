"""What was measured: how accurate runs are by codec, and what a machine does."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from cutlayer.config.section import Rate, Watts, asked
from cutlayer.errors import ConfigError, cut, quoted
from cutlayer.spec import Base, Task
from cutlayer.units import MIB

# What was measured: a codec's settings, the bits they took and the accuracy they left.
#
# A profile is for one model, data set and training job. Knows its file, and no training; `cutlayer
# profile` made those that come with the package, by the command inside.


FORMAT = 1
# the device part's name in the configuration against which the others lose
TRAINED = "trained"
FROZEN = "frozen"


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
class DevicePartPoint:
    """The device part trained, frozen or warm at one cut, trained once for each seed through the
    codec `best` at its defaults.

    `device_part` is the configuration's; `rounds` are those in which a warm one is trained, None of
    the others. `accuracies` are as a `ProfilePoint`'s.
    """

    cut: int
    device_part: str
    rounds: int | None
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return mean(self.accuracies)


@dataclass(frozen=True)
class CurvePoint:
    """How accurate training without a codec is after so many rounds, one accuracy a seed: `steps`
    are the local steps until then of the device that has most."""

    rounds: int
    steps: int
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class MeasuredLoss:
    """Accuracy lost against another way to train, and its standard error [share of samples]."""

    loss: float
    error: float


@dataclass(frozen=True)
class Profile:
    """The points of one training job.

    `training` says in a line what was trained, `command` how the file was made. `seeds` number the
    accuracies of every point. One point, codec `none`, is what the others lose accuracy against.
    `device_parts` are of any cuts, each measured with the device part trained, too. `curve` is that
    point's on the way, round by round as far as it was evaluated. `bases`: the numbers of the
    frozen weights, devices' and server's; `adapter_codec`: what adapters went through. Raises
    ConfigError for a point without what it is held against, or whose accuracies are not one a seed.
    """

    model: str
    data: str
    cut: int
    training: str
    command: str
    test_samples: int
    seeds: tuple[int, ...]
    points: tuple[ProfilePoint, ...]
    device_parts: tuple[DevicePartPoint, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    bases: tuple[str, str] = ("float32", "float32")
    adapter_codec: str = "none"

    def __post_init__(self) -> None:
        named = [(f"{one.codec} {dict(one.settings)}", one.accuracies) for one in self.points]
        named += [
            (f"device part {one.device_part} at cut {one.cut}", one.accuracies)
            for one in self.device_parts
        ]
        named += [(f"round {one.rounds}", one.accuracies) for one in self.curve]
        for name, accuracies in named:
            if len(accuracies) != len(self.seeds):
                raise ConfigError(
                    f"profile: {name} has {len(accuracies)} accuracies for {len(self.seeds)}"
                    " seeds; profile again"
                )
        if sum(point.codec == "none" for point in self.points) != 1:
            raise ConfigError("profile: it needs one point without a codec; profile again")
        for at in {point.cut for point in self.device_parts}:
            if sum(point.device_part == TRAINED for point in self.device_parts_at(at)) != 1:
                raise ConfigError(
                    f"profile: cut {at} needs one point with its device part {TRAINED}; profile"
                    " again"
                )

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

    def device_parts_at(self, cut: int) -> tuple[DevicePartPoint, ...]:
        """The points of a cut; none where it was not measured."""
        return tuple(point for point in self.device_parts if point.cut == cut)

    def device_part_loss(self, point: DevicePartPoint) -> MeasuredLoss:
        """What one of `device_parts` loses against the device part trained at the same cut.

        Seed by seed, the same samples in the same order; the error is that of the mean over seeds,
        and with one seed, from the test samples alone, as `loss_error`'s.
        """
        trained = next(p for p in self.device_parts_at(point.cut) if p.device_part == TRAINED)
        return self.loss_between(trained, point)

    def frozen_loss(self, cut: int) -> MeasuredLoss | None:
        """What a frozen device part loses at this cut; None where nobody measured it."""
        frozen = (p for p in self.device_parts_at(cut) if p.device_part == FROZEN)
        return next((self.device_part_loss(point) for point in frozen), None)

    def loss_between(self, reference: DevicePartPoint, point: DevicePartPoint) -> MeasuredLoss:
        """What `point` loses against `reference`, of any cut; as `device_part_loss`."""
        pairs = zip(reference.accuracies, point.accuracies, strict=True)
        losses = [one - other for one, other in pairs]
        if len(losses) > 1:
            return MeasuredLoss(mean(losses), sqrt(variance(losses) / len(losses)))
        shares = (reference.accuracy, point.accuracy)
        error = sqrt(sum(share * (1 - share) for share in shares) / self.test_samples)
        return MeasuredLoss(mean(losses), error)

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
        device_parts = [
            DevicePartPoint(**{**p, "accuracies": tuple(p["accuracies"])})
            for p in fields.get("device_parts", ())
        ]
        curve = [
            CurvePoint(**{**p, "accuracies": tuple(p["accuracies"])})
            for p in fields.get("curve", ())
        ]
        own = {"seeds": tuple(fields["seeds"]), "points": tuple(points), "curve": tuple(curve)}
        own["bases"] = tuple(fields.get("bases", Profile.bases))
        return Profile(**{**fields, **own, "device_parts": tuple(device_parts)})
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


# What a machine does, measured: the file that `cutlayer bench-device` writes and plans take.
#
# Knows the file and its units; neither torch nor how anything in it was measured.


_MOST_BYTES = 1 << 20
_MOST_LETTERS = 100
# bounds as settings have them: what is between them is computed without overflow
_Bytes = Annotated[int, Field(ge=1, le=10**15)]

Family: TypeAlias = Literal["vision", "encoder", "decoder"]
FAMILIES: dict[Task, Family] = {
    "image-classification": "vision",
    "text-classification": "encoder",
    "causal-lm": "decoder",
}


class _Measured(BaseModel):
    """Frozen; unknown keys, infinities and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_machine_name(name: str, setting: str) -> None:
    """Raises ConfigError for a name that no profile can have."""
    if not name or len(name) > _MOST_LETTERS or not name.isprintable():
        raise ConfigError(
            f"{setting} {quoted(name)}: say in one line of at most {_MOST_LETTERS} letters what"
            " plans shall call this machine"
        )


class ReachedRate(_Measured):
    """What blocks of a family of models reach, frozen weights in numbers of the base: FLOP/s of a
    forward alone and of a step (forward and backward, adapters trained), of a mini-batch of
    `samples` times `tokens` in blocks that are `width` wide.

    `block_s`: what a block takes in a step at least, however few tokens: launches, and reading its
    weights [s].
    """

    family: Family
    base: Base
    width: int = Field(ge=1)
    tokens: int = Field(ge=1)
    samples: int = Field(ge=1)
    forward_flops_per_s: Rate
    step_flops_per_s: Rate
    block_s: float = Field(ge=0, le=1e6)


class MachineProfile(_Measured):
    """One device or server, and how it was measured.

    `weight_bytes_per_s`: how fast weights are read. `memory_free_bytes`: what there was for
    training, None where the system does not tell. `power_w`, `idle_power_w`: while it computes and
    while it waits, None where no sensor tells; `power_source`: which sensor, or why there is none.
    """

    format: Literal[1] = 1
    name: str = Field(min_length=1)
    command: str
    date: str
    device: str
    processor: str
    torch: str
    threads: int = Field(ge=1)
    quick: bool
    rates: tuple[ReachedRate, ...] = Field(min_length=1)
    weight_bytes_per_s: Rate
    memory_total_bytes: _Bytes | None
    memory_free_bytes: _Bytes | None
    power_w: Watts | None
    idle_power_w: float | None = Field(ge=0, le=1e9)
    power_source: str

    def rate(self, base: Base, task: Task | None, setting: str) -> ReachedRate:
        """What blocks of the task's models reach; without a task the slowest ones.

        Raises ConfigError, naming the `setting` that gave the profile, if nobody measured it.
        """
        family = None if task is None else FAMILIES[task]
        among = [one for one in self.rates if one.base is base and family in (None, one.family)]
        if not among:
            known = ", ".join(f"{one.family} in {one.base.value}" for one in self.rates)
            raise ConfigError(
                f"{setting} {self.name} has no rate of {family or 'any'} blocks in {base.value}: it"
                f" has {known}; measure again with `cutlayer bench-device --bases {base.value}`"
            )
        return min(among, key=lambda one: one.step_flops_per_s)

    def memory_bytes(self, reserved_mib: float, setting: str) -> int | None:
        """What was free, without what is reserved; None where nobody knows.

        Raises ConfigError if nothing is left.
        """
        if self.memory_free_bytes is None:
            return None
        left = self.memory_free_bytes - int(reserved_mib * MIB)
        if left <= 0:
            raise ConfigError(
                f"{setting} {self.name} had {self.memory_free_bytes / MIB:.0f} MiB free, of which"
                f" {reserved_mib:g} are reserved: lower {setting.partition('.')[0]}.reserved_mib,"
                " or free some and measure again"
            )
        return left


def machine_text(profile: MachineProfile) -> str:
    """What `read_machine` reads, as YAML."""
    return yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False)


def read_machine(path: Path, setting: str) -> MachineProfile:
    """A machine's profile from its file, YAML or JSON. `setting`: which one names it.

    Raises ConfigError for a file that is not there, is none, or has another format.
    """
    again = "; `cutlayer bench-device` makes one"
    where = f"{setting} {path}"
    try:
        with path.open("rb") as file:
            values = yaml.safe_load(file.read(_MOST_BYTES))
        if not isinstance(values, dict) or "format" not in values:
            raise ConfigError(f"{where} is no profile of a machine{again}")
        if values["format"] != FORMAT:
            raise ConfigError(
                f"{where} has format {cut(repr(values['format']))}, this cutlayer reads"
                f" {FORMAT}: measure again with `cutlayer bench-device`"
            )
        profile = MachineProfile.model_validate(values)
    except FileNotFoundError as error:
        raise ConfigError(f"{setting}: there is no {path}{again}") from error
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{where}: {_fault(error.errors()[0])}{again}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no YAML{again}") from error
    check_machine_name(profile.name, f"{where}: name")
    return profile


def _fault(error: ErrorDetails) -> str:
    key = cut(".".join(map(str, error["loc"])))
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "extra_forbidden":
            return f"{key} is not known here"
        case "too_short":
            return f"{key} is an empty list"
        case _:
            return f"{key} {asked(error)}, not {quoted(error['input'])}"
