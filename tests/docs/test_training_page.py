"""The page of training settings names settings that there are."""

import re
from pathlib import Path

from cutlayer.config.keys import keys

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_names_in_the_tables_are_settings_and_none_is_left_out() -> None:
    """All of what is trained and how it steps is in them."""
    rows = re.findall(r"^\| (`[^|]+`) \|", PAGE.read_text(encoding="utf-8"), re.M)
    named = [name for row in rows for name in re.findall(r"`([a-z_.]+)`", row)]
    known = {each.key for each in keys()}
    assert set(named) <= known and len(named) == len(set(named))
    sections = ("optimizer.", "adapter.")
    assert {key for key in known if key.startswith(sections)} <= {*named, "optimizer.schedule"}
