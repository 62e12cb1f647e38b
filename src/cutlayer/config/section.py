"""What every section of a configuration is, what settings are, and which choice reads each.

Numbers have bounds beyond which nothing sensible follows: what is left between them is computed
without overflow.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cutlayer.words import shown

MOST_DEVICES = 1_000_000


def _number(value: Any) -> Any:
    """To pydantic, true is 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


def _readable(text: str) -> str:
    """No path, name or column has a zero byte, and the system's calls stop at one."""
    if "\0" in text:
        raise PydanticCustomError("text", "should be text without zero bytes")
    return text


_Number = BeforeValidator(_number)
Whole = Annotated[int, _Number]
Real = Annotated[float, Field(allow_inf_nan=False), _Number]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _Number]
Seconds = Annotated[float, Field(ge=1e-3, le=1e9, allow_inf_nan=False), _Number]
BitRate = Annotated[float, Field(ge=1, le=1e15, allow_inf_nan=False), _Number]
Rate = Annotated[float, Field(ge=1, le=1e21, allow_inf_nan=False), _Number]
RateEach = Rate | tuple[Rate, ...]
Mebibytes = Annotated[float, Field(ge=1e-3, le=1e9, allow_inf_nan=False), _Number]
MebibytesEach = Mebibytes | tuple[Mebibytes, ...]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), _Number]
ShareEach = Share | tuple[Share, ...]
Decibels = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False), _Number]
DecibelsEach = Decibels | tuple[Decibels, ...]
Text = Annotated[str, AfterValidator(_readable)]


@dataclass(frozen=True)
class ReadBy:
    """In a field's annotation: the setting is read only where another has one of these values, or
    unless it has one of them.

    `key`: of the same section, or from the root if it has a dot.
    """

    key: str
    values: tuple[Any, ...]
    unless: bool

    def holds(self, value: Any) -> bool:
        """Whether the setting is read beside this value of the other."""
        return (value in self.values) is not self.unless

    def __str__(self) -> str:
        """With which values it is read, as a user writes them."""
        words = [shown(value) for value in self.values]
        return f"{'other than ' if self.unless else ''}{' or '.join(words)}"


def read_by(key: str, *values: Any) -> ReadBy:
    """Read where the other has one of these values."""
    return ReadBy(key, values, unless=False)


def read_unless(key: str, *values: Any) -> ReadBy:
    """Read where the other has none of these values."""
    return ReadBy(key, values, unless=True)


def kinds(annotation: Any) -> Iterator[Any]:
    """The types that a value may have: a union's, without what is annotated to them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from kinds(option)
    else:
        yield annotation


def names_of(annotation: Any) -> tuple[str, ...]:
    """The words that a value may be, where it may be one of some."""
    return tuple(
        word for kind in kinds(annotation) if get_origin(kind) is Literal for word in get_args(kind)
    )


class Section(BaseModel):
    """Frozen, and unknown keys are errors. One with a `name` may be given as that name alone; a
    name may be written with _ for -."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        if isinstance(value, str) and "name" in cls.model_fields:
            value = {"name": value}
        if not isinstance(value, dict):
            return value
        return {key: cls._hyphened(key, given) for key, given in value.items()}

    @classmethod
    def _hyphened(cls, key: Any, given: Any) -> Any:
        """What is given for a key, with hyphens if it is a name only then."""
        if not isinstance(given, str) or key not in cls.model_fields:
            return given
        known, other = names_of(cls.model_fields[key].annotation), given.replace("_", "-")
        return other if given not in known and other in known else given
