"""Strict reading of one JSON object."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import RunError
from cutlayer.report.json_fields import JsonFields, parse_object

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
GETTERS: dict[str, Callable[[JsonFields, str], object]] = {
    "text": JsonFields.text,
    "count": JsonFields.count,
    "number": JsonFields.number,
    "loss": JsonFields.loss,
    "child": JsonFields.child,
    "children": JsonFields.children,
    "numbers": JsonFields.numbers,
    "counts": JsonFields.counts,
    "rows_of_counts": JsonFields.rows_of_counts,
    "texts": JsonFields.texts,
}


@given(JSON_VALUES, st.sampled_from(sorted(GETTERS)))
def test_a_getter_gives_a_value_or_an_error_that_names_the_place(value: object, name: str) -> None:
    fields = parse_object("rounds.jsonl line 3", json.dumps({"delay_s": value}))
    try:
        GETTERS[name](fields, "delay_s")
    except RunError as problem:
        assert str(problem).startswith("rounds.jsonl line 3: delay_s is ")
        assert len(str(problem)) < 200


@pytest.mark.parametrize(
    ("getter", "good", "bad"),
    [
        ("text", "a", 1),
        ("count", 3, True),
        ("count", 0, -1),
        ("count", 3, 3.0),
        ("count", 2**62, 10**400),
        ("number", 0.5, math.nan),
        ("number", 0, -0.5),
        ("number", 7, math.inf),
        ("loss", 2.5, "2.5"),
        ("loss", -1.0, False),
        ("child", {"a": 1}, [1]),
        ("children", [{}], [1]),
        ("numbers", [1, 0.5], [-1]),
        ("counts", [1, 2], [0.5]),
        ("rows_of_counts", [[1], []], [1]),
        ("rows_of_counts", [[1]], [[-1]]),
        ("texts", ["a"], [None]),
        ("texts", [], "a"),
    ],
)
def test_each_getter_takes_its_type_alone(getter: str, good: object, bad: object) -> None:
    fields = JsonFields("summary.json", {"good": good, "bad": bad})
    GETTERS[getter](fields, "good")
    with pytest.raises(RunError, match=r"summary.json: bad is .*, needed is "):
        GETTERS[getter](fields, "bad")


def test_a_diverged_loss_is_a_number() -> None:
    assert math.isnan(parse_object("here", '{"loss": NaN}').loss("loss"))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RunError, match="here: the key 'seed' is missing"):
        parse_object("here", "{}").count("seed")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "[1]", "null", "[" * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(RunError, match=r"^here: "):
        parse_object("here", text)
