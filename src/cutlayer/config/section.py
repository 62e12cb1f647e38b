"""What every section of a configuration is, and the numbers that settings are."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def _number(value: Any) -> Any:
    """To pydantic, true is 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
Finite = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
PositiveEach = Positive | tuple[Positive, ...]
Share = Annotated[float, Field(gt=0, le=1)]
ShareEach = Share | tuple[Share, ...]
FiniteEach = Finite | tuple[Finite, ...]


class Section(BaseModel):
    """Frozen, and unknown keys are errors. One with a `name` may be given as that name alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) and "name" in cls.model_fields else value
