"""The quantisers: what each promises of the values that come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.ends import cosine
from cutlayer.codec.dead_zone import DeadZone, robust_scale
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.quantisers import (
    Float8,
    Integer,
    Quantised,
    Quantiser,
    RelativeStep,
    StochasticLevels,
    TokenRows,
    from_bfloat16,
    to_bfloat16,
    to_nearest_bfloat16,
)
from cutlayer.errors import ConfigError, PacketError

KERNELS = load_kernels()


def laplace(rows=40, columns=24, seed=0):
    return np.random.default_rng(seed).laplace(size=(rows, columns)).astype(np.float32)


def there_and_back(quantiser, values, kept=None, ratio=1.0, seed=0, samples=2):
    sizes = np.full(samples, values.size // samples)
    rows = TokenRows(values, kept, sizes, ratio)
    quantised = quantiser.quantise(rows, KERNELS, np.random.default_rng(seed))
    return quantised, quantiser.dequantise(quantised, sizes, KERNELS)


def test_levels_are_without_bias():
    values = laplace(4, 16)
    draws = [there_and_back(StochasticLevels(3), values, seed=n)[1] for n in range(2000)]
    # a draw is off by up to a third of the range, with a standard deviation of at most half that;
    # the mean of 2000 by 1/45 of it: five of them
    span = np.ptp(np.abs(values).reshape(2, -1), axis=1).max() * 1.01
    np.testing.assert_allclose(np.mean(draws, 0), values, atol=5 * span / 6 / np.sqrt(2000))


@pytest.mark.parametrize("levels", [1, 7, 255])
def test_a_level_is_next_to_its_value(levels):
    values = laplace()
    _, back = there_and_back(StochasticLevels(levels), values)
    for sent, received in zip(values.reshape(2, -1), back.reshape(2, -1), strict=True):
        magnitudes = np.abs(sent)
        # the extremes travel rounded outwards by up to 1 part in 128
        span = magnitudes.max() * 129 / 128 - magnitudes.min() * 127 / 128
        assert np.abs(received - sent).max() <= span / levels * (1 + 1e-5)
        assert (np.sign(received) * np.sign(sent) >= 0).all()


def test_zero_stays_zero_among_levels():
    values = laplace()
    values[values < 0.1] = 0.0
    _, back = there_and_back(StochasticLevels(7), values)
    assert not back[values == 0].any()


def test_a_dropped_value_is_zero():
    values = laplace()
    kept = (np.abs(values) > 1).astype(np.uint8).reshape(-1)
    for quantiser in (StochasticLevels(7), DeadZone(RelativeStep(0.1)), Integer(2), Float8()):
        _, back = there_and_back(quantiser, values, kept)
        np.testing.assert_array_equal(back != 0, np.abs(values) > 1)


@pytest.mark.parametrize("rounding", [0.2, 0.35, 0.5])
def test_the_dead_zone_rounds_as_it_says(rounding):
    values = laplace()
    quantised, back = there_and_back(DeadZone(RelativeStep(1.0), rounding), values, ratio=0.5)
    step = np.frombuffer(quantised.settings[:4], dtype="<f4")[0]
    assert step == pytest.approx(0.5 * robust_scale(values, KERNELS.largest(values), KERNELS))
    expected = np.sign(values) * np.floor(np.abs(values) * (np.float32(1) / step) + rounding)
    np.testing.assert_array_equal(quantised.symbols, expected)
    # a value is at most one step from any point of its own cell
    assert np.abs(back - values).max() <= step


def test_a_cell_decodes_to_the_mean_of_its_values():
    values = np.abs(laplace(200, 50))
    quantised, back = there_and_back(DeadZone(RelativeStep(1.0)), values)
    ones = quantised.symbols == 1
    # the shift is float16: 11 bits of a number below 1, in steps of about 1
    assert back[ones].mean() == pytest.approx(values[ones].mean(), abs=2e-3)


def massive_and_others(rows=3000):
    """Laplace values, one column a hundred times the others."""
    values = laplace(rows, 120)
    values[:, 7] *= 100
    return values


@pytest.mark.parametrize("ratio", [0.5, 1.5, 2.5])
def test_energy_is_kept_where_it_is_asked_for(ratio):
    values = massive_and_others()
    plain, means = there_and_back(DeadZone(RelativeStep(1.0)), values, ratio=ratio)
    quantised, back = there_and_back(
        DeadZone(RelativeStep(1.0), keeps_energy=True), values, ratio=ratio
    )
    np.testing.assert_array_equal(quantised.symbols, plain.symbols)
    others = np.arange(120) != 7
    sent = np.square(values[:, others]).sum()
    assert np.square(means[:, others]).sum() < 0.99 * sent
    # from a third of the rows: 119,000 values whose squares vary as much as twice their mean
    assert np.square(back[:, others]).sum() == pytest.approx(sent, rel=0.02)
    # the massive column's symbols are large, and move by less than a step
    step = np.frombuffer(quantised.settings[:4], dtype="<f4")[0]
    assert np.abs(back[:, 7] - values[:, 7]).max() < 1.5 * step


def test_energy_that_few_symbols_cannot_carry_is_not_kept():
    values = massive_and_others(300)
    # nearly all values are zeros, and what is left would have to grow by more than a packet says
    _, back = there_and_back(DeadZone(RelativeStep(1.0), keeps_energy=True), values, ratio=8.0)
    others = np.arange(120) != 7
    assert 0 < np.square(back[:, others]).sum() < 0.5 * np.square(values[:, others]).sum()


@pytest.mark.parametrize("values", [np.zeros((4, 6)), np.zeros((0, 6)), np.zeros((4, 0))])
def test_where_nothing_is_left_no_energy_is_looked_for(values):
    quantiser = DeadZone(RelativeStep(1.0), keeps_energy=True)
    _, back = there_and_back(quantiser, values.astype(np.float32))
    np.testing.assert_array_equal(back, values)


def test_a_step_grows_before_a_symbol_overflows():
    values = laplace()
    values[3, 5] = 1e7
    quantised, back = there_and_back(DeadZone(RelativeStep(1.0)), values, ratio=0.01)
    assert np.abs(quantised.symbols).max() < 32767
    assert back[3, 5] == pytest.approx(1e7, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_the_scale_follows_its_values_without_the_largest_column(scale):
    values = laplace(columns=100)
    values[:, 7] *= 1000
    values = (values * scale).astype(np.float32)
    others = np.delete(values, 7, axis=1).astype(np.float64)
    assert robust_scale(values, KERNELS.largest(values), KERNELS) == pytest.approx(
        np.sqrt(np.square(others).mean()), rel=1e-5
    )


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_are_within_half_a_step_of_each_token(bits):
    values = laplace()
    _, back = there_and_back(Integer(bits), values)
    largest = np.abs(values).max(axis=1, keepdims=True)
    step = largest / 2 if bits == 2 else largest / (2 ** (bits - 1) - 1)
    # and the scale is off by 1 part in 256 at most
    assert (np.abs(back - values) <= step / 2 * (1 + 1e-5) + largest / 256).all()


def test_more_bits_are_closer():
    values = laplace()
    angles = [1 - cosine(there_and_back(Integer(b), values)[1], values) for b in range(2, 9)]
    assert angles == sorted(angles, reverse=True)


def test_float8_is_within_a_sixteenth():
    values = laplace()
    _, back = there_and_back(Float8(), values)
    scale = np.abs(values).max() / 448
    # half of 1/8, the fraction's last place; below 2^-6 half of 2^-9
    bound = np.maximum(np.abs(values) / 16, scale * 2.0**-10) * (1 + 1e-5)
    assert (np.abs(back - values) <= bound).all()


@given(st.lists(st.floats(0, 2.0**126, width=32), max_size=20))
def test_halves_bracket_their_values(numbers):
    values = np.array(numbers, dtype=np.float32)
    down = from_bfloat16(to_bfloat16(values, up=False))
    up = from_bfloat16(to_bfloat16(values, up=True))
    near = from_bfloat16(to_nearest_bfloat16(values))
    assert (down <= values).all()
    assert (up >= values).all()
    normal = values >= np.finfo(np.float32).tiny
    assert (up[normal] <= values[normal] * (1 + 2.0**-7)).all()
    assert (np.abs(near - values)[normal] <= values[normal] * 2.0**-8).all()


FORGED: list[tuple[Quantiser, bytes, int]] = [
    (StochasticLevels(7), b"", 0),
    (StochasticLevels(7), bytes(9), 0),
    (StochasticLevels(7), b"\x07" + b"\x80\x3f" * 2 + b"\x00\x3f" * 2, 0),  # low above high
    (StochasticLevels(7), b"\x07" + b"\x80\x3f" * 4, 9),  # beyond the last point
    (DeadZone(RelativeStep(1.0)), b"", 0),
    (DeadZone(RelativeStep(1.0)), b"\x00\x00\x80\x7f" + bytes(4), 0),  # an infinite step
    (DeadZone(RelativeStep(1.0)), b"\x00\x00\x80\x3f\x00\x7c\x00\x00", 0),  # an infinite shift
    (Integer(4), b"\x04", 0),
    (Integer(4), b"\x09" + b"\x80\x3f" * 4, 0),
    (Integer(4), b"\x04" + b"\x80\x7f" * 4, 0),  # an infinite scale
    (Float8(), b"", 0),
    (Float8(), b"\x00\x00\x80\xbf", 0),
    (Float8(), b"\x00\x00\x80\x3f", 127),
]


@pytest.mark.parametrize(("quantiser", "settings", "symbol"), FORGED)
def test_settings_and_symbols_that_no_sender_makes_are_refused(quantiser, settings, symbol):
    symbols = np.full((4, 3), symbol, dtype=np.int16)
    with pytest.raises(PacketError):
        quantiser.dequantise(Quantised(symbols, settings), np.array([6, 6]), KERNELS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticLevels(0), "levels 0"),
        (lambda: StochasticLevels(256), "levels 256"),
        (lambda: Integer(1), "bits 1"),
        (lambda: Integer(9), "bits 9"),
        (lambda: DeadZone(RelativeStep(1.0), 0.0), "rounding 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
