"""One reading of labels and texts for every form."""

from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from cutlayer.data.samples import (
    alike_names,
    clean_name,
    name_classes,
    read_label,
    refuse_mixed_kinds,
    text_fault,
)
from cutlayer.errors import DataError


@pytest.mark.parametrize(
    "value", [1, 1.0, "1", "1.0", " 1 ", "1.", np.int64(1), np.float32(1), Decimal("1.00")]
)
def test_a_whole_number_is_one_class_however_it_is_written(value: object) -> None:
    assert read_label(value) == "1"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (-0.0, "0"),
        ("-0.0", "0"),
        (0.5, "0.5"),
        (10**20, str(10**20)),
        (1e20, str(10**20)),
        (True, "True"),
        (np.bool_(True), "True"),
        (Decimal("2.5"), "2.5"),
        (date(2024, 1, 2), "2024-01-02"),
        ("01", "01"),
        ("1.50", "1.50"),
    ],
)
def test_other_values_have_one_name(value: object, name: str) -> None:
    assert read_label(value) == name


@pytest.mark.parametrize(
    "text",
    [
        *(" red", "red\t", "\u00a0red", "red\u200b", "\ufeffred", "r\u00ade\u2060d", "red\u2003"),
        *("red\r", "\u200dred"),
    ],
)
def test_what_cannot_be_seen_makes_no_class(text: str) -> None:
    assert read_label(text) == "red"


def test_unicode_forms_and_runs_of_blanks_are_one() -> None:
    assert read_label("cafe\u0301") == read_label("caf\u00e9") == "caf\u00e9"
    assert clean_name("New \u00a0 York") == "New York"


@pytest.mark.parametrize(
    "value", [None, "", "  ", "\u200b", float("nan"), np.float64("nan"), "nan", "NaN", "#N/A"]
)
def test_what_stands_for_missing_is_no_class(value: object) -> None:
    assert read_label(value) is None


@pytest.mark.parametrize(
    "value",
    [[1], (1,), {"a": 1}, b"red", np.array([1]), float("inf"), "\ud83d", Decimal("inf"), "a\0"],
)
def test_what_can_be_no_class_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="its label"):
        read_label(value)


def test_true_beside_a_number_names_both_places() -> None:
    with pytest.raises(DataError, match=r"true or false \(line 2\), others are numbers \(line 3\)"):
        refuse_mixed_kinds([("line 1", "x"), ("line 2", True), ("line 3", 1)], "d")
    refuse_mixed_kinds([("line 1", True), ("line 2", float("nan")), ("line 3", None)], "d")
    refuse_mixed_kinds([("line 1", 1), ("line 2", 2.5), ("line 3", "x")], "d")


@pytest.mark.parametrize(
    ("labels", "clash"),
    [
        (["True", "1"], True),
        (["TRUE", " 0.0", "nan"], True),
        ([True, "1"], True),
        (["true", 0.5], True),
        (["true", "1", "maybe"], False),
        (["True", "False", ""], False),
        (["1", "2.5", "nan"], False),
        (["yes", "1"], False),
    ],
)
def test_texts_of_both_kinds_clash_where_there_are_no_others(
    labels: list[object], clash: bool
) -> None:
    given = [(f"line {n}", label) for n, label in enumerate(labels)]
    if clash:
        with pytest.raises(DataError, match="some labels are true or false"):
            refuse_mixed_kinds(given, "d")
    else:
        refuse_mixed_kinds(given, "d")


def test_true_beside_a_text_that_says_so() -> None:
    with pytest.raises(DataError, match=r"\(line 1\), others are texts that say so \(line 2\)"):
        refuse_mixed_kinds([("line 1", True), ("line 2", "true"), ("line 3", False)], "d")
    refuse_mixed_kinds([("line 1", True), ("line 2", "True"), ("line 3", False)], "d")


def test_classes_that_look_alike_are_found() -> None:
    assert alike_names(["Red", "green", "red", "01", "1", "2"]) == [("Red", "red"), ("01", "1")]
    assert alike_names(["-0", "0", "1", "+1", "1e0"]) == [("-0", "0"), ("1", "+1"), ("1", "1e0")]
    assert alike_names(["0.5", "0.50", "5", "1" + "0" * 30, "1" + "0" * 29 + "1"]) == [
        ("0.5", "0.50")
    ]


def test_equal_numbers_are_in_an_order_that_no_hash_decides() -> None:
    assert name_classes(["1", "01", "001", "0"]) == ("0", "001", "01", "1")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "it has no text"),
        (float("nan"), "it has no text"),
        (5, "its 'body' is a number, not a text"),
        ([{"role": "user"}], "its 'body' is a list, not a text"),
        ({}, "its 'body' is an object, not a text"),
        ("half \ud83d", "its text holds half a character (the lone surrogate U+D83D)"),
        ("a\0b", "it holds a NUL character"),
        (" \u200b\n", "its text is empty"),
    ],
)
def test_a_value_that_is_no_text_is_told(value: object, why: str) -> None:
    assert text_fault(value, "body") == why
    assert text_fault("a text", "body") is None
