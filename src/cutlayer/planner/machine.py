"""What a machine does, measured: the file that `cutlayer bench-device` writes and plans take.

Knows the file and its units; neither torch nor how anything in it was measured.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from cutlayer.config.section import Rate, Watts, asked
from cutlayer.errors import ConfigError, cut, quoted
from cutlayer.spec import Base, Task
from cutlayer.units import MIB

FORMAT = 1
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
