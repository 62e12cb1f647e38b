"""Which settings are trained, and the codecs of each."""

import numpy as np
import pytest
from codec.ends import Ends, correlated

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.profiling.grid import (
    BEST_TARGETS,
    FULL_GRID,
    QUICK_GRID,
    CodecGrid,
    CodecSetting,
    codecs_of,
    other_bytes,
)


def test_every_setting_once_and_none_first() -> None:
    settings = list(CodecGrid((0.5, 0.1, 0.5), (3, 1), BEST_TARGETS[:1]).settings())
    assert settings == [
        CodecSetting("none"),
        CodecSetting("paper", {"keep_ratio": 0.1, "levels": 1}),
        CodecSetting("paper", {"keep_ratio": 0.1, "levels": 7}),
        CodecSetting("paper", {"keep_ratio": 0.5, "levels": 1}),
        CodecSetting("paper", {"keep_ratio": 0.5, "levels": 7}),
        CodecSetting("best", {"target_bits_up": 0.22, "target_bits_down": 0.1}),
        CodecSetting("fast"),
    ]
    assert str(settings[2]) == "paper, keep ratio 0.1, levels 7"
    assert len(list(FULL_GRID.settings())) == 1 + 5 * 4 + 5 + 1


@pytest.mark.parametrize("setting", [*FULL_GRID.settings(), *QUICK_GRID.settings()], ids=str)
def test_every_setting_is_one_of_the_codec_section(setting: CodecSetting) -> None:
    section = Config.model_validate({"codec": {"name": setting.codec, **setting.values}}).codec
    assert section.model_fields_set == {"name", *setting.values}


@pytest.mark.parametrize(
    ("keep_ratios", "bits", "message"),
    [
        ((), (3,), "at least one"),
        ((0.1,), (), "at least one"),
        ((0.0,), (3,), "keep ratio 0:"),
        ((0.1, 1.5), (3,), "keep ratio 1.5"),
        ((float("nan"),), (3,), "keep ratio nan"),
        ((0.1,), (0,), "0 bits"),
        ((0.1,), (9,), "9 bits"),
    ],
)
def test_a_grid_that_cannot_be(
    keep_ratios: tuple[float, ...], bits: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CodecGrid(keep_ratios, bits, BEST_TARGETS)


def test_the_published_codec_counts_the_same_symbols_both_ways() -> None:
    values = {"keep_ratio": 0.2, "levels": 7}
    pair = codecs_of(CodecSetting("paper", values), packets=4)
    plus = codecs_of(CodecSetting("paper-rans", values), packets=4)
    tensor = correlated((4, 6, 16))
    for both, alone in ((pair.up, plus.up), (pair.down, plus.down)):
        ends, other = Ends(both), Ends(alone)
        sent, expected = ends.send(tensor), other.send(tensor)
        assert np.array_equal(sent[1].tensor, expected[1].tensor)
        assert other_bytes(ends.sender) == len(expected[0]) != len(sent[0])
