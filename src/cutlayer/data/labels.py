"""What a label, a class name and a text may be: one reading for every form that data have.

`1`, `1.0` and `"1"` are one class, blanks around a name are none of it, and what stands for
"missing" in a file is no class. Knows single values, no file.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

import numpy as np

from cutlayer.errors import DataError, quoted, type_in_words

# what pandas, R and spreadsheets write for a label that is not there
_MISSING = frozenset({"nan", "<na>", "#n/a"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")
_WHOLE = re.compile(r"([+-]?\d{1,300})\.0*")
# letters of no width that copying from pages leaves behind; joiners only at the ends, since some
# scripts need them inside a word
_NO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]|^[\u200c\u200d]+|[\u200c\u200d]+$"
)
_VISIBLE = re.compile("[^\\s\u00ad\u200b-\u200f\u2060\ufeff]")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUTH = (str(True), str(False))  # the classes of true and false


def read_label(value: object) -> str | None:
    """A label as the name of its class; None where it is missing (null, empty, NaN).

    Whole numbers are written without a point, blanks and letters without width around a text are
    dropped, and it is in Unicode's composed form. Raises `DataError` for what can be no class.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return None if value is None else str(value)
    if isinstance(value, str):
        return _text_label(value)
    if isinstance(value, int | float | Decimal):
        return _number_label(value)
    if isinstance(value, list | tuple | dict | bytes | np.ndarray):
        raise DataError(f"its label is {type_in_words(value)}, not a text or a number")
    return str(value)


def clean_name(text: str) -> str:
    """A name without what cannot be seen: runs of blanks are one blank, none at the ends."""
    return " ".join(_NO_WIDTH.sub("", unicodedata.normalize("NFC", text)).split())


def text_fault(value: object, field: str) -> str | None:
    """Why a value of the column `field` is no text that a model can read; None: it is."""
    if value is None or (isinstance(value, float) and value != value):
        return "it has no text"
    if not isinstance(value, str):
        return f"its {field!r} is {type_in_words(value)}, not a text"
    half = None if value.isascii() else _SURROGATE.search(value)
    if half is not None:
        return f"its text holds half a character (the lone surrogate U+{ord(half.group()):04X})"
    if "\0" in value:
        return "it holds a NUL character"
    return None if _VISIBLE.search(value) else "its text is empty"


def refuse_mixed_kinds(labels: Iterable[tuple[str, object]], origin: str) -> None:
    """Raises `DataError` for labels, given as `(place, value)`, of which some are true or false
    and others are numbers: nobody can tell whether `1` and `true` are one class.

    Of texts, as a CSV's labels all are, that is so where there are no other words among them. So
    for true or false beside the texts `true` or `false`, which would be classes of their own.
    """
    first: dict[tuple[str, bool], str] = {}
    spelt: str | None = None
    for place, value in labels:
        sort, text = _sort(value), isinstance(value, str)
        first.setdefault((sort, text), place)
        if spelt is None and sort == "truth" and text and read_label(value) not in _TRUTH:
            spelt = place
    texts = () if ("word", True) in first else (True,)
    places = {
        sort: next((first[sort, text] for text in (False, *texts) if (sort, text) in first), None)
        for sort in ("truth", "number")
    }
    if None not in places.values():
        raise DataError(
            f"{origin}: some labels are true or false ({places['truth']}), others are numbers "
            f"({places['number']}): write all of them one way"
        )
    if ("truth", False) in first and spelt is not None:
        raise DataError(
            f"{origin}: some labels are true or false ({first['truth', False]}), others are texts "
            f"that say so ({spelt}): write all of them one way"
        )


def _sort(value: object) -> str:
    """Whether a label is a truth value, a number or a word; empty where it is missing or none."""
    if isinstance(value, bool | np.bool_):
        return "truth"
    if isinstance(value, int | float | Decimal | np.number):
        return "number" if value == value else ""
    if not isinstance(value, str):
        return ""
    word = clean_name(value).casefold()
    if not word or word in _MISSING:
        return ""
    return "truth" if word in ("true", "false") else "number" if _NUMBER.fullmatch(word) else "word"


def alike_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of classes that a person would take for one: equal but for upper and lower case,
    Unicode's compatible letters or the spelling of a number."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        first = seen.setdefault(_folded(name), name)
        if first != name:
            pairs.append((first, name))
    return pairs


def _folded(name: str) -> str:
    folded = clean_name(unicodedata.normalize("NFKC", name)).casefold()
    if folded.isascii() and folded.isdigit():
        return folded.lstrip("0") or "0"
    short_number = len(folded) <= sys.float_info.dig and _NUMBER.fullmatch(folded)
    if not short_number:
        return folded
    value = float(folded) + 0.0  # no -0
    return str(int(value)) if value.is_integer() else str(value)


def _text_label(value: str) -> str | None:
    if _SURROGATE.search(value):
        raise DataError(f"its label {quoted(value)} holds half a character (a lone surrogate)")
    name = clean_name(value)
    if _CONTROL.search(name):
        raise DataError(f"its label {quoted(value)} holds a control character")
    if not name or name.casefold() in _MISSING:
        return None
    whole = _WHOLE.fullmatch(name)
    return str(int(whole.group(1))) if whole else name


def _number_label(value: int | float | Decimal) -> str | None:
    if isinstance(value, Decimal):
        whole = value.is_finite() and value.adjusted() < 300 and value == int(value)
        value = int(value) if whole else float("nan") if value.is_nan() else float(value)
    if value != value:
        return None
    if isinstance(value, float) and not np.isfinite(value):
        raise DataError(f"its label is {value}, not a finite number")
    return str(int(value) if value == int(value) else value)
