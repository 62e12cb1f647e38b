"""While packages are imported: a line now and then, and a missing one by name."""

import pytest

from cutlayer.errors import ConfigError
from cutlayer.logs import loading


def test_a_missing_package_is_named_with_what_brings_it() -> None:
    with (
        pytest.raises(ConfigError, match=r"`cutlayer lab` needs no_such: pip install 'cutlayer\[a"),
        loading("`cutlayer lab`", "a,b"),
    ):
        raise ModuleNotFoundError("No module", name="no_such")
