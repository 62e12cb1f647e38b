"""Device presets against the rates that their makers print, and their names."""

import re

import pytest

from cutlayer.config.presets import PRESETS, Cores, find_preset
from cutlayer.errors import ConfigError
from cutlayer.spec import Base
from cutlayer.units import GIB


@pytest.mark.parametrize(
    ("name", "flops_per_s", "digit"),
    [
        ("jetson-nano", 472e9 / 2, 0.5e9),  # 472 GFLOP/s in half precision
        ("jetson-tx2", 1.33e12 / 2, 5e9),  # 1.33 TFLOP/s in half precision
        ("jetson-agx-orin-64gb", 5.3e12, 0.05e12),
        ("l4", 30.3e12, 0.05e12),
        ("rtx-4090", 82.6e12, 0.05e12),
        ("a100-40gb", 19.5e12, 0.05e12),
        ("a100-80gb", 19.5e12, 0.05e12),
    ],
)
def test_a_rate_is_the_printed_one(name: str, flops_per_s: float, digit: float) -> None:
    """To half of the last digit that is printed (of TX2, whose clock is 1.302 GHz, to one)."""
    assert find_preset(name).flops_per_s == pytest.approx(flops_per_s, abs=digit)


def test_every_rate_is_cores_times_clock_times_operations() -> None:
    assert find_preset("raspberry-pi-5-8gb").flops_per_s == 4 * 2.4e9 * 16
    assert find_preset("jetson-orin-nano-8gb").flops_per_s == 1024 * 625e6 * 2
    mixed = find_preset("pixel-6")
    assert mixed.cores == (Cores(2, 2.8e9, 32), Cores(2, 2.25e9, 16), Cores(4, 1.8e9, 8))
    assert mixed.flops_per_s == pytest.approx(2 * 89.6e9 + 2 * 36e9 + 4 * 14.4e9, rel=1e-12)


def test_a_name_tells_the_memory_that_is_sold() -> None:
    for name, preset in PRESETS.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert preset.name == name
        assert preset.source
        assert preset.memory_bytes % GIB == 0
        assert f"{preset.memory_bytes // GIB} GB" in preset.title
        if sold := re.search(r"-(\d+)gb$", name):
            assert preset.memory_bytes == int(sold[1]) * GIB


def test_a_preset_says_whose_rate_it_is() -> None:
    kinds = {name: preset.processor for name, preset in PRESETS.items()}
    assert (kinds["jetson-nano"], kinds["a100-80gb"]) == ("GPU", "GPU")
    assert (kinds["pixel-6"], kinds["raspberry-pi-5-8gb"]) == ("CPU", "CPU")
    assert {preset.base for preset in PRESETS.values()} == {Base.FLOAT32}


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"no device preset 'jetson-nanoo'; did you mean jetson-nano\?"
    ):
        find_preset("jetson-nanoo")
