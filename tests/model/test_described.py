"""Descriptions of models in files: what is written is read, and nothing else is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.model.described import DescribedModel, described_text, read_described
from cutlayer.spec import Activations, BatchBytes, BlockBytes, LinearShape, ModelSpec

COUNT = st.integers(0, 2**40)
NUMBER = st.floats(0, 2**40)
LINEAR = st.tuples(COUNT, COUNT, COUNT, st.booleans())
DESCRIBED = DescribedModel(
    ModelSpec("m", 2, 4, 2, 2, (LinearShape(4, 4, 1),), 16, 8, 8, 10),
    image_tokens=17,
    most_tokens=None,
)


@given(
    name=st.text(),
    counts=st.tuples(*[COUNT] * 8),
    linears=st.lists(LINEAR, max_size=3),
    numbers=st.lists(NUMBER, min_size=54, max_size=54),
    counted=st.booleans(),
    tokens=st.tuples(st.none() | COUNT, st.none() | COUNT),
    documents_by=st.none() | st.text(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    counts: tuple[int, ...],
    linears: list[tuple[int, int, int, bool]],
    numbers: list[float],
    counted: bool,
    tokens: tuple[int | None, int | None],
    documents_by: str | None,
) -> None:
    blocks, width, heads, head_width, *parameters, classes = counts
    model = ModelSpec(
        name,
        *(blocks, width, heads, head_width),
        tuple(LinearShape(*shape) for shape in linears),
        *parameters,
        classes,
        head_per_token=counted,
        attention_backward=numbers[0],
        activations=activations(numbers) if counted else None,
    )
    described = DescribedModel(model, *tokens, documents_by)
    path = tmp_path_factory.mktemp("described") / "model.json"
    path.write_text(described_text(described), encoding="utf-8")
    assert read_described(path) == described


def activations(numbers: list[float]) -> Activations:
    """Nine amounts of six numbers each."""
    a, b, c, d, e, f, g, h, i = (BatchBytes(*numbers[n : n + 6]) for n in range(0, 54, 6))
    return Activations(a, b, BlockBytes(c, d), BlockBytes(e, f), BlockBytes(g, h), i)


def test_a_whole_number_may_stand_for_a_float(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    values = json.loads(described_text(DESCRIBED))
    values["model"]["attention_backward"] = 2
    path.write_text(json.dumps(values), encoding="utf-8")
    backward = read_described(path).model.attention_backward
    assert (backward, type(backward)) == (2.0, float)


def without(values: dict[str, Any]) -> None:
    del values["model"]["width"]


def with_more(values: dict[str, Any]) -> None:
    values["model"]["colour"] = "red"


def of_another_type(values: dict[str, Any]) -> None:
    values["model"]["heads"] = "two"


def true_for_one(values: dict[str, Any]) -> None:
    values["model"]["heads"] = True


def no_list(values: dict[str, Any]) -> None:
    values["model"]["block_linears"] = {}


def of_another_format(values: dict[str, Any]) -> None:
    values["format"] = 99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "model file.model has"),
        (with_more, "colour"),
        (of_another_type, "heads is 'two', not of type int"),
        (true_for_one, "heads is True, not of type int"),
        (no_list, r"block_linears is \{\}, not a list"),
        (of_another_format, "a format other than 6"),
    ],
)
def test_another_form_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    values = json.loads(described_text(DESCRIBED))
    change(values)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_described(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not JSON", '{"format": 1, "model": 3}'])
def test_what_is_no_description_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"describes no model.*delete it"):
        read_described(path)
    with pytest.raises(ConfigError, match="describes no model"):
        read_described(tmp_path / "nowhere.json")
