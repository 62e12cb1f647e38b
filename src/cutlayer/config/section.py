"""What every section of a configuration is, what settings are, and which choice reads each.

A section with alternatives is a union of sections, each with its own keys; its `name` says which.
Numbers have bounds beyond which nothing sensible follows: what is left between them is computed
without overflow.
"""

import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from cutlayer.errors import ConfigError, cut, nearest, quoted, shown

MOST_DEVICES = 1_000_000


def _number(value: Any) -> Any:
    """To pydantic, true is 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _readable(text: str) -> str:
    """No path, name or column has a zero byte, and the system's calls stop at one."""
    if "\0" in text:
        raise PydanticCustomError("text", "should be text without zero bytes")
    return text


def _regular_expression(text: str) -> str:
    try:
        re.compile(_readable(text))
    except re.error as error:
        raise PydanticCustomError(
            "pattern", "should be a regular expression: {why}", {"why": str(error)}
        ) from error
    return text


def _torch_device(text: str) -> str:
    """The name of what computes; whether it is there is found where torch is."""
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?|mps", text) is None:
        raise PydanticCustomError("torch_device", "should be auto, cpu, cuda, cuda:0, ... or mps")
    return text


# the last of an annotation: bounds behind it are asked, but no schema knows them
Number = BeforeValidator(_number)
Whole = Annotated[int, Number]
Real = Annotated[float, Field(allow_inf_nan=False), Number]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), Number]
Seconds = Annotated[float, Field(ge=1e-3, le=1e9, allow_inf_nan=False), Number]
BitRate = Annotated[float, Field(ge=1, le=1e15, allow_inf_nan=False), Number]
Rate = Annotated[float, Field(ge=1, le=1e21, allow_inf_nan=False), Number]
RateEach = Rate | tuple[Rate, ...]
Mebibytes = Annotated[float, Field(ge=1e-3, le=1e9, allow_inf_nan=False), Number]
MebibytesEach = Mebibytes | tuple[Mebibytes, ...]
Reserved = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), Number]
ReservedEach = Reserved | tuple[Reserved, ...]
Watts = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False), Number]
WattsEach = Watts | tuple[Watts | None, ...]
Price = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), Number]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), Number]
ShareEach = Share | tuple[Share, ...]
Decibels = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False), Number]
DecibelsEach = Decibels | tuple[Decibels, ...]
Text = Annotated[str, AfterValidator(_readable), BeforeValidator(_as_text)]
TextEach = Text | tuple[Text, ...]
Pattern = Annotated[str, AfterValidator(_regular_expression), BeforeValidator(_as_text)]
TorchDevice = Annotated[str, AfterValidator(_torch_device)]


@dataclass(frozen=True)
class ReadBy:
    """In a field's annotation: the setting is read only where another has one of these values, or
    unless it has one of them.

    For what a choice of its own keys cannot say: where the other is in another section, or has no
    name. `key`: of the same section, or from the root if it has a dot.
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


S = TypeVar("S", bound="Section")


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

    # nested sections go another way, so that an error names the whole key

    def __init__(self, **values: Any) -> None:
        with _in_our_words(type(self)):
            super().__init__(**values)

    # what pydantic asks: else nested sections would be made by it
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls: type[S], obj: Any, **options: Any) -> S:
        """As pydantic's. Raises ConfigError."""
        with _in_our_words(cls):
            return super().model_validate(obj, **options)

    @classmethod
    def model_validate_json(cls: type[S], json_data: str | bytes | bytearray, **options: Any) -> S:
        """As pydantic's. Raises ConfigError."""
        with _in_our_words(cls):
            return super().model_validate_json(json_data, **options)

    if not TYPE_CHECKING:  # which knows that it is frozen

        def __setattr__(self, name: str, value: object) -> None:
            raise _frozen(name)

        def __delattr__(self, name: str) -> None:
            raise _frozen(name)


@contextmanager
def _in_our_words(root: type[Section]) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ConfigError(explain(root, error)) from error


def _frozen(name: str) -> ConfigError:
    return ConfigError(
        f"{name}: a configuration does not change; make another one by cutlayer.Config(...), or by"
        " read_config(path, {key: value})"
    )


def sections_of(annotation: Any) -> tuple[type[Section], ...]:
    """The sections that a value may be, in their order."""
    found = (kind for kind in kinds(annotation) if isinstance(kind, type))
    return tuple(kind for kind in found if issubclass(kind, Section))


# the groups of entry points by which packages register what they have
ALLOCATIONS, AGGREGATIONS = "cutlayer.allocations", "cutlayer.aggregations"
CHANNELS, CODECS = "cutlayer.channels", "cutlayer.codecs"
PARTITIONS, SCHEMES = "cutlayer.partitions", "cutlayer.schemes"
# what stands for others' choices where choices are listed
PLUGIN = "package.module:Name"


class PluginSection(Section):
    """What an installed package has, called with the options."""

    name: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$|^[\w-]+$",
        max_length=200,
        description="package.module:Name, or a name that an installed package registers",
    )
    options: dict[str, JsonValue] = Field(
        default={}, description="what it is called with, by name; which it takes is its own affair"
    )
    package: Text | None = Field(
        default=None, description="what to install where it is missing; null: as the server finds"
    )


def registered(group: str) -> dict[str, EntryPoint]:
    """What installed packages register as entry points of a group, by name."""
    return {entry.name: entry for entry in entry_points(group=group)}


def choice_name(section: type[Section]) -> str:
    """The name by which a section of a union is chosen."""
    names = names_of(section.model_fields["name"].annotation)
    return str(names[0]) if names else PLUGIN


@dataclass(frozen=True)
class Choices:
    """In the annotation of a union of sections: they are told apart by their `name`, and without
    one it is the `default`. `plugins`: the entry points by which packages register more, where a
    PluginSection is one of them."""

    default: str
    plugins: str | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        members = {choice_name(one): handler.generate_schema(one) for one in sections_of(source)}

        def chosen(value: Any) -> str:
            given = _given_name(value, self.default)
            hyphened = given.replace("_", "-")
            if given in members or hyphened in members:
                return given if given in members else hyphened
            return PLUGIN if self._is_plugin(given) else given

        return core_schema.tagged_union_schema(members, chosen)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """A name alone, or one of the sections, whose name is left out of the default alone."""
        references = handler(schema)["oneOf"]
        names = [] if self.plugins is None else list(registered(self.plugins))
        mapping = {}
        for reference in references:
            section = handler.resolve_ref_schema(reference)
            name = section["properties"]["name"]
            if "const" in name:
                mapping[name["const"]] = reference["$ref"]
            else:
                _of_plugins(name, names)
            if name.get("const") != self.default and "name" not in section.get("required", ()):
                section["required"] = ["name", *section.get("required", ())]
        words: list[JsonValue] = [{"type": "string", "enum": [*mapping, *names]}]
        if self.plugins is not None:
            words.append({"type": "string", "pattern": ":"})
        discriminator = {"propertyName": "name", "mapping": mapping}
        return {"anyOf": [*words, {"oneOf": references, "discriminator": discriminator}]}

    def _is_plugin(self, name: str) -> bool:
        return self.plugins is not None and (":" in name or name in registered(self.plugins))


def _of_plugins(name: dict[str, Any], names: Sequence[str]) -> None:
    """The schema of a plugin's name, which no choice of ours has: with a colon, or a registered
    one, in whatever union it is asked for."""
    name.pop("pattern", None)
    (_, known) = name.setdefault("anyOf", [{"pattern": ":"}, {"enum": []}])
    known["enum"] = sorted({*known["enum"], *names})


def _given_name(value: Any, default: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("name", default)
        return value if isinstance(value, str) else repr(value)
    if isinstance(value, Section):
        return str(getattr(value, "name", default))
    return value if isinstance(value, str) else default


def choices_of(field: FieldInfo) -> Choices | None:
    """How the sections that a field may hold are told apart, if there are several."""
    return next((each for each in field.metadata if isinstance(each, Choices)), None)


def find_field(root: type[Section], key: str) -> FieldInfo | None:
    """The field at a dotted key, of the first choice that has it; None if there is no such key."""
    among: tuple[type[Section], ...] = (root,)
    field = None
    for name in key.split("."):
        having = (one.model_fields[name] for one in among if name in one.model_fields)
        field = next(having, None)
        if field is None:
            return None
        among = sections_of(field.annotation)
    return field


def sections(root: type[Section], key: str) -> tuple[str, ...]:
    """The names that a section has, whatever is chosen ("" for the whole)."""
    return tuple(dict.fromkeys(name for one in sections_at(root, key) for name in one.model_fields))


def sections_at(root: type[Section], key: str) -> tuple[type[Section], ...]:
    """What a section may be ("" for the whole): more than one where it is a choice."""
    field = find_field(root, key)
    return (root,) if not key else () if field is None else sections_of(field.annotation)


def choices_with(root: type[Section], key: str, name: str) -> tuple[str, ...]:
    """The names of those choices of a section that have a setting of this name."""
    field = find_field(root, key) if key else None
    if field is None or choices_of(field) is None:
        return ()
    having = (one for one in sections_of(field.annotation) if name in one.model_fields)
    return tuple(choice_name(one) for one in having)


# What is wrong with a configuration, in one line: the whole key, the value, what to do.
#
# Knows pydantic's errors and how sections lie in one another.


def explain(root: type[Section], error: ValidationError) -> str:
    """The first mistake of what was to be a `root`."""
    return _explain(root, _first(root, error.errors()))


def _first(root: type[Section], errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first mistake; where a value may be one thing or another, what it came nearest to."""
    where = _where(root, errors[0])
    return max((e for e in errors if _where(root, e) == where), key=_nearness)


def _nearness(error: ErrorDetails) -> tuple[int, bool, bool]:
    """How much a value is like what it was taken for: a list is no word, and an empty one a
    list."""
    word = error["type"] in ("literal_error", "string_type") and isinstance(
        error["input"], Sequence
    )
    short = error["type"] == "too_short"
    return len(error["loc"]), short, not word or isinstance(error["input"], str)


def _where(root: type[Section], error: ErrorDetails) -> str:
    """The whole key: of the parts of a place, those that are names of it; of a key that should not
    be there, or is not, its section's."""
    key, place = "", error["loc"]
    of_section = error["type"] in ("extra_forbidden", "missing")
    for part in place[:-1] if of_section else place:
        longer = f"{key}.{part}".lstrip(".")
        field = None if "." in str(part) else find_field(root, longer)
        # a choice may be called as one of its settings is: column
        if field is not None and (sections_of(field.annotation) or not of_section):
            key = longer
    return key


def _explain(root: type[Section], error: ErrorDetails) -> str:
    where, value = _where(root, error), quoted(error["input"])
    if error["type"] == "union_tag_invalid":
        return _unknown_name(root, where, error["ctx"]["tag"])
    if error["type"].startswith("json_"):
        return f"a configuration cannot be read as JSON: {asked(error)}"
    if error["type"] == "missing":
        key, chosen = error["loc"][-1], error["loc"][-2:][0]
        if len(error["loc"]) == 1:  # of a section by itself
            return f"{root.__name__} needs {key}: it has no default"
        return f"{where}.name {chosen} needs {where}.{key}: it has no default"
    if error["type"] == "extra_forbidden":
        word = str(error["loc"][-1])
        readers = choices_with(root, where, word)
        if readers:
            return (
                f"{where}.{word} {shown(error['input'])} is not read with {where}.name"
                f" {error['loc'][-2]}, but with {' or '.join(readers)}: leave it out, or change"
                f" {where}.name"
            )
        if "." in word and find_field(root, f"{where}.{word}".lstrip(".")) is not None:
            hint = f"nest it: {word.replace('.', ': {')}: ...{'}' * word.count('.')}"
        else:
            hint = nearest(word, list(sections(root, where)))
        return f"unknown configuration key {cut(f'{where}.{word}'.lstrip('.'))}; {hint}"
    if error["type"] == "model_type":
        field = find_field(root, where)
        among = field is not None and choices_of(field) is not None
        names = map(choice_name, sections_at(root, where)) if among else ()
        if error["input"] is None and "none" in names:
            return f"{where} should be none, which is a text, not None"
        return f"{where or 'a configuration'} must hold keys and values, not {value}"
    if error["type"] == "tuple_type":
        return f"{where} must be a list, such as [a, b], not {value}"
    if error["type"] == "too_short" and isinstance(error["input"], Sequence) and not error["input"]:
        return f"{where}: is an empty list: leave it out, or list something"
    if error["type"] == "string_pattern_mismatch" and where.endswith(".name"):
        return f"{where}: should be {PLUGIN}, with one colon, not {value}"
    if error["type"] == "string_type":
        quotes = (
            "" if isinstance(error["input"], list | dict | type(None)) else ": put it in quotes"
        )
        return f"{where}: should be text, not {value}{quotes}"
    return f"{where or 'a configuration'}: {asked(error)}, not {value}"


def _unknown_name(root: type[Section], where: str, given: str) -> str:
    """Of a section that nobody knows by that name: all names, and the nearest."""
    known = [choice_name(one) for one in sections_at(root, where)]
    field = find_field(root, where)
    choices = None if field is None else choices_of(field)
    plugins = [] if choices is None or choices.plugins is None else registered(choices.plugins)
    *names, last = map(repr, known)
    message = f"{where}.name: should be {', '.join(names)} or {last}, not {quoted(given)}"
    hint = nearest(given, [*known, *plugins])
    return f"{message}; {hint}" if hint.endswith("?") else message


def asked(error: ErrorDetails) -> str:
    """What a value should be, by pydantic's error; bounds in their shortest words."""
    bounds = {name: _bound(value) for name, value in error.get("ctx", {}).items()}
    match error["type"]:
        case "greater_than_equal":
            return f"should be at least {bounds['ge']}"
        case "less_than_equal":
            return f"should be at most {bounds['le']}"
        case "greater_than":
            return f"should be above {bounds['gt']}"
        case "less_than":
            return f"should be below {bounds['lt']}"
        case "too_short":
            return f"should list at least {bounds['min_length']}"
        case "too_long":
            return f"should list at most {bounds['max_length']}"
        case _:
            word, _, rest = error["msg"].partition(" ")
            lower = word if word.isupper() else word.lower()
            return f"{lower} {rest}".replace("input should", "should")


def _bound(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
