"""What can be wrong with a job is found in the order of what finding it costs."""

from typing import Any

import pytest

from cutlayer.config.job import prepare
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"devices": {"count": 3, "uplink_snr_db": [1.0, 2.0]}}, r"devices\.uplink_snr_db lists 2"),
        ({"devices": {"count": 3, "memory_mib": [1.0]}}, r"devices\.memory_mib lists 1"),
        ({"link": {"shares": [0.5, 0.5]}}, "2 bandwidth shares for 8"),
        ({"link": {"traces": ["a.csv", "b.csv"]}}, r"link\.traces lists 2 files"),
        ({"training": {"micro_batches": 17}}, r"training\.micro_batches 17"),
    ],
)
def test_lists_and_numbers_come_before_the_model(sections: dict[str, Any], message: str) -> None:
    config = Config.model_validate({"model": "no-such-model", **sections})
    with pytest.raises(ConfigError, match=message):
        prepare(config)
