"""Words, and what a terminal or a page may be given of a run's strings."""

import unicodedata
import xml.etree.ElementTree as ElementTree
from html import escape

from hypothesis import given
from hypothesis import strategies as st

from cutlayer.report.wording import (
    MEMORY_KINDS,
    PAYLOADS,
    PHASES,
    phases_in,
    printable,
    shortened,
    word,
)

ANY_TEXT = st.text(st.characters(codec=None, categories=None))


@given(ANY_TEXT)
def test_printable_text_is_valid_xml_and_holds_no_control(text: str) -> None:
    shown = printable(text)
    assert ElementTree.fromstring(f"<a>{escape(shown)}</a>").text in (shown, None)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in shown)
    assert len(shown) == len(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="\ufffd")))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(ANY_TEXT, st.integers(1, 30))
def test_shortened_text_fits_and_keeps_its_beginning(text: str, length: int) -> None:
    shown = shortened(text, length)
    assert len(shown) <= length
    assert printable(text).startswith(shown.removesuffix("…"))


def test_a_direction_override_cannot_turn_round_what_follows() -> None:
    assert "\u202e" not in printable("cat\u202egod")


def test_an_unknown_key_is_shown_as_it_is() -> None:
    assert word(PAYLOADS, "prototype").label == "prototype"


def test_colours_and_short_headings_tell_the_words_of_a_figure_apart() -> None:
    for vocabulary in (PHASES, PAYLOADS, MEMORY_KINDS):
        assert len({entry.colour for entry in vocabulary.values()}) == len(vocabulary)
        assert len({entry.short for entry in vocabulary.values()}) == len(vocabulary)
        assert all(len(entry.short) <= 4 for entry in vocabulary.values())


def test_phases_that_took_no_time_are_left_out() -> None:
    seconds = [{"server_compute": 0.0, "barrier": 0.5}, {"device_forward": 1.0, "turn": 0.0}]
    assert list(phases_in(seconds)) == ["device_forward", "barrier"]
    assert phases_in([]) == {}
