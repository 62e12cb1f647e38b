"""Types of options that several commands take."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from cutlayer.words import quoted

Number = TypeVar("Number", int, float)


def whole_number(text: str) -> int:
    """A whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number from 1 on")
    return number


def numbers_of(number: Callable[[str], Number]) -> Callable[[str], tuple[Number, ...]]:
    """Numbers of one kind with commas between."""

    def numbers(text: str) -> tuple[Number, ...]:
        try:
            return tuple(number(part) for part in text.split(","))
        except ValueError:
            what = "whole numbers" if number is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"{quoted(text)} is not {what} with commas between"
            ) from None

    return numbers
