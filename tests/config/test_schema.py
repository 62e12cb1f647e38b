"""The schema names what the package has."""

from typing import get_args

from cutlayer.config.schema import SchemeSection
from cutlayer.schemes.all import SCHEMES


def test_every_scheme_can_be_asked_for() -> None:
    assert get_args(SchemeSection.model_fields["name"].annotation) == tuple(SCHEMES)
