"""Both forms of the loops over values give the same bytes, and what their definitions say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from codec.forms import BOTH, FORMS, alike, check_same
from cutlayer.codec.kernels.portable import mix
from cutlayer.errors import PacketError

# ties, zeros of both signs, denormals and one huge value are common, not rare
magnitudes = st.sampled_from([0.0, 1e-45, 1e-40, 0.5, 1.0, 1.5, 3e38]) | st.floats(0, 100, width=32)
floats = st.builds(lambda x, negative: -x if negative else x, magnitudes, st.booleans())
widths = st.integers(1, 40)
steps = st.floats(2**-10, 100, width=32).map(np.float32)


@st.composite
def values(draw, most=300):
    """Flat float32 values."""
    drawn = draw(npst.arrays(np.float32, draw(st.integers(0, most)), elements=floats, fill=floats))
    return drawn.astype(np.float32)


@st.composite
def segmented(draw):
    """Values, and sizes of segments (0 among them) that add up."""
    x = draw(values())
    cuts = sorted(draw(st.lists(st.integers(0, x.size), max_size=5)))
    return x, np.diff([0, *cuts, x.size]).astype(np.int64)


@st.composite
def matrices(draw, elements=floats, dtype=np.float32, columns=widths):
    """A matrix, also without rows."""
    shape = (draw(st.integers(0, 9)), draw(columns))
    return draw(npst.arrays(dtype, shape, elements=elements, fill=elements)).astype(dtype)


def symbols(largest):
    return st.integers(-largest, largest)


@given(segmented(), st.integers(0, 10))
def test_top_k_marks_the_largest_and_of_equal_ones_the_first(drawn, tenths):
    x, sizes = drawn
    counts = sizes * tenths // 10
    kept = check_same("top_k", x, sizes, counts)
    start = 0
    for size, count in zip(sizes, counts, strict=True):
        order = np.argsort(-np.abs(x[start : start + size]), kind="stable")
        expected = np.zeros(size, dtype=np.uint8)
        expected[order[:count]] = 1
        np.testing.assert_array_equal(kept[start : start + size], expected)
        start += size


@pytest.mark.parametrize(
    "kind", ["normal", "ties", "constant", "mostly zero", "sorted", "one huge"]
)
@pytest.mark.parametrize("share", [0.001, 0.2, 0.999])
def test_top_k_of_segments_that_are_sampled_is_exact(kind, share):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(100_001).astype(np.float32)
    if kind == "ties":
        x = np.round(x, 1)
    elif kind == "constant":
        x[:] = -2
    elif kind == "mostly zero":
        x[rng.random(x.size) < 0.9] = 0
    elif kind == "sorted":
        x = np.sort(x)
    elif kind == "one huge":
        x[70_000] = 3e38
    sizes, counts = np.array([x.size]), np.array([int(share * x.size)])
    expected = np.zeros(x.size, dtype=np.uint8)
    expected[np.argsort(-np.abs(x), kind="stable")[: counts[0]]] = 1
    for form in FORMS:
        np.testing.assert_array_equal(form.top_k(x, sizes, counts), expected)


@pytest.mark.parametrize("sampled_are_larger", [False, True])
def test_top_k_is_exact_where_the_sample_misleads(sampled_are_larger):
    # the C form first looks at 4096 places, one in each stride, to guess the threshold; here they
    # say nothing of the others, so it must search the whole segment
    count, stride = 40_000, 9
    sampled = np.arange(4096) * stride + mix(4096, 0) % stride
    rng = np.random.default_rng(5)
    x = rng.random(count).astype(np.float32)
    x[sampled] += 10 if sampled_are_larger else -10
    magnitudes = np.where(x < 0, 0, x).astype(np.float32)
    expected = np.zeros(count, dtype=np.uint8)
    expected[np.argsort(-magnitudes, kind="stable")[: count // 4]] = 1
    found = check_same("top_k", magnitudes, np.array([count]), np.array([count // 4]))
    np.testing.assert_array_equal(found, expected)


@given(segmented(), st.data())
def test_extremes_are_those_of_the_kept_magnitudes(drawn, data):
    x, sizes = drawn
    kept = data.draw(npst.arrays(np.uint8, x.size, elements=st.integers(0, 1)))
    low, high = check_same("extremes", x, kept, sizes)
    start = 0
    for i, size in enumerate(sizes):
        found = np.abs(x[start : start + size][kept[start : start + size] == 1])
        assert low[i] == (found.min() if found.size else 0)
        assert high[i] == (found.max() if found.size else 0)
        start += size


@given(segmented())
def test_the_largest_is_that_of_all_magnitudes(drawn):
    x, _ = drawn
    assert check_same("largest", x) == np.abs(x).max(initial=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 40])
def test_the_largest_is_infinite_where_a_value_is_not_finite(value, place):
    x = np.linspace(-2, 2, 41, dtype=np.float32)
    x[place] = value
    assert check_same("largest", x) == np.inf


@given(segmented(), st.data(), st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_levels_are_one_of_the_two_points_beside_the_value(drawn, data, levels, seed):
    x, sizes = drawn
    kept = data.draw(npst.arrays(np.uint8, x.size, elements=st.integers(0, 1)))
    extremes = FORMS[0].extremes(x, kept, sizes)
    q = check_same("quantise_levels", x, kept, sizes, extremes, levels, seed)
    np.testing.assert_array_equal(q != 0, kept == 1)
    assert np.all((q < 0) == ((x < 0) & (kept == 1)))
    low, high = np.repeat(extremes.astype(np.float64), sizes, axis=1)
    point = low + (np.abs(q) - 1) * (high - low) / levels
    gap = (np.abs(np.abs(x) - point) * levels)[kept == 1]
    # a value is less than one interval away; the division, the product and the sum in float32 are
    # off by 2^-24 of at most `levels` + 1 intervals each
    assert np.all(gap <= (high - low)[kept == 1] * (1 + 3 * (levels + 1) * 2**-24))


def test_levels_are_right_on_average_and_depend_on_all_of_the_seed():
    x = np.full(40_000, 0.3, dtype=np.float32)
    x[0], x[1] = 0, 1
    kept, sizes = np.ones(x.size, dtype=np.uint8), np.array([x.size])
    extremes = np.array([[0], [1]], dtype=np.float32)
    drawn = [
        check_same("quantise_levels", x, kept, sizes, extremes, 2, 3 << at) for at in (0, 31, 62)
    ]
    for q in drawn:
        # points 0 and 1/2 with probability 0.4 and 0.6; the mean of 40000 is within 5 standard
        # deviations of sqrt(0.24 / 40000)
        assert abs((q[2:] - 1).mean() - 0.6) < 5 * np.sqrt(0.24 / 40_000)
        assert abs(np.corrcoef(q[2:-1], q[3:])[0, 1]) < 5 / np.sqrt(40_000)
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert abs(np.corrcoef(drawn[a][2:], drawn[b][2:])[0, 1]) < 5 / np.sqrt(40_000)


@given(st.sampled_from([1, 7, 8, 40]), segmented(), st.data())
def test_points_are_looked_up(levels, drawn, data):
    _, sizes = drawn
    count = int(sizes.sum())
    q = data.draw(npst.arrays(np.int16, count, elements=symbols(levels)))
    points = data.draw(npst.arrays(np.float32, (sizes.size, levels), elements=magnitudes))
    x = check_same("dequantise_points", q, sizes, points)
    row = points[np.repeat(np.arange(sizes.size), sizes)]
    expected = np.sign(q) * row[np.arange(count), np.abs(q.astype(int)) - 1]
    np.testing.assert_array_equal(x, np.where(q == 0, 0, expected))


@BOTH
@pytest.mark.parametrize("wrong", [3, -3, -32768, 32767])
@pytest.mark.parametrize("points", [2, 0])
def test_a_symbol_without_a_point_is_refused(kernels, wrong, points):
    q = np.array([0, wrong], dtype=np.int16)
    with pytest.raises(PacketError, match="larger than the number of points"):
        kernels.dequantise_points(q, np.array([2]), np.zeros((1, points), dtype=np.float32))


@given(values(), steps, st.floats(0.0625, 0.5, width=32).map(np.float32))
def test_dead_zone_rounds_as_its_formula(x, step, rounding):
    q, moments = check_same("quantise_dead_zone", x, step, rounding)
    with np.errstate(over="ignore"):
        ratio = np.minimum(np.abs(x) * (np.float32(1) / step), np.float32(32767))
    level = np.floor(ratio + rounding)
    np.testing.assert_array_equal(q, np.where(x < 0, -level, level))
    excess = np.floor((ratio.astype(np.float64) - level) * 4096)
    assert (moments.ones, moments.more) == ((level == 1).sum(), (level > 1).sum())
    assert moments.ones_excess == excess[level == 1].sum()
    assert moments.more_excess == excess[level > 1].sum()


@given(npst.arrays(np.int16, st.integers(0, 99), elements=symbols(32767)), steps, steps, steps)
def test_dead_zone_comes_back_as_its_formula(q, step, one, more):
    x = check_same("dequantise_dead_zone", q, step, one, more)
    size = np.abs(q).astype(np.float32)
    expected = (size + np.where(size == 1, one, more)) * step * np.sign(q).astype(np.float32)
    np.testing.assert_array_equal(x, expected)


@given(st.integers(2, 8), matrices())
def test_rows_are_rounded_to_their_own_scale(bits, x):
    q, scales = check_same("quantise_rows", x, bits)
    back = check_same("dequantise_rows", q, scales, bits)
    largest = 2 ** (bits - 1) - 1
    with np.errstate(divide="ignore", over="ignore"):
        usable = np.isfinite(np.float32(largest) / np.abs(x).max(axis=1).astype(np.float32))
    np.testing.assert_array_equal(scales, np.where(usable, np.abs(x).max(axis=1), 0))
    assert np.all(q[~usable] == (1 if bits == 2 else 0))
    assert np.all(np.abs(q) <= max(2, largest))
    # half a step; 2 bits: the points 1/4 and 3/4 are 1/4 from the ends. The products and quotients
    # in float32 are off by 2^-24 of a whole scale each, or by the smallest denormal.
    half = scales / (4 if bits == 2 else 2 * largest)
    bound = half.astype(np.float64) + 4 * 2**-24 * scales + 4 * largest * 2.0**-149
    assert np.all(np.abs(back.astype(np.float64) - x)[usable] <= bound[usable, None])


@given(npst.arrays(np.int16, (3, 5), elements=symbols(2)))
def test_symbol_zero_of_two_bits_is_zero(q):
    x = check_same("dequantise_rows", q, np.ones(3, dtype=np.float32), 2)
    np.testing.assert_array_equal(x, np.sign(q) * np.where(np.abs(q) == 2, 0.75, 0.25) * (q != 0))


@given(st.integers(0, 5), st.integers(1, 3), st.data())
def test_hadamard_is_orthonormal_and_comes_back(stages, blocks, data):
    block = 2**stages
    moderate = floats.filter(lambda value: abs(value) < 1e30)
    x = data.draw(matrices(moderate, columns=st.just(block * blocks)))
    y = check_same("hadamard", x, block, inverse=False)
    back = check_same("hadamard", y, block, inverse=True)
    # log2(block) additions and one product, each within 2^-24 of partial results no larger than
    # the row's norm times sqrt(block), before the scale takes that root away; both ways
    norm = np.linalg.norm(x.astype(np.float64), axis=1)
    bound = 2 * (stages + 1) * 2.0**-24 * np.sqrt(block) * norm + block * 2.0**-140
    assert np.all(np.abs(back - x.astype(np.float64)).max(axis=1, initial=0) <= bound)
    assert np.all(np.abs(np.linalg.norm(y.astype(np.float64), axis=1) - norm) <= bound * 16)


def test_hadamard_spreads_one_value_with_the_signs_of_its_column():
    x = np.eye(64, dtype=np.float32)
    y = check_same("hadamard", x, 64, inverse=False)
    # the first row of the matrix is positive, so the first output shows each column's sign
    np.testing.assert_array_equal(np.abs(y), np.float32(1 / 8))
    assert 16 < (y[:, 0] < 0).sum() < 48


@given(st.integers(2, 8), st.integers(0, 5), st.integers(1, 3), st.data())
def test_rows_may_be_transformed_on_the_way(bits, stages, blocks, data):
    block = 2**stages
    moderate = floats.filter(lambda value: abs(value) < 1e30)
    x = data.draw(matrices(moderate, columns=st.just(block * blocks)))
    q, scales = check_same("quantise_rows", x, bits, block)
    back = check_same("dequantise_rows", q, scales, bits, block)
    turned = check_same("hadamard", x, block, inverse=False) if block > 1 else x
    alike((q, scales), check_same("quantise_rows", turned, bits))
    restored = check_same("dequantise_rows", q, scales, bits)
    alike(back, check_same("hadamard", restored, block, inverse=True) if block > 1 else restored)


@given(matrices(symbols(32767), np.int16))
def test_sums_are_plain_sums(q):
    found = check_same("sums", q)
    wide = q.astype(np.int64)
    np.testing.assert_array_equal(found.rows, np.abs(wide).sum(axis=1))
    np.testing.assert_array_equal(found.columns, np.abs(wide).sum(axis=0))
    np.testing.assert_array_equal(found.signs, np.sign(wide).sum(axis=0))
    assert found.largest == np.abs(wide).max(initial=0)


@given(npst.arrays(np.int16, st.integers(0, 70), elements=symbols(32767)), st.integers(1, 16))
def test_packed_symbols_come_back(q, width):
    data = check_same("pack", q, width)
    assert len(data) == (q.size * width + 7) // 8
    bits = "".join(f"{int(v) & (1 << width) - 1:0{width}b}"[::-1] for v in q)
    whole = sum(int(bit) << at for at, bit in enumerate(bits))
    assert data == whole.to_bytes(len(data), "little")
    back = check_same("unpack", data, q.size, width)
    np.testing.assert_array_equal(back.view(np.uint16), q.view(np.uint16) & ((1 << width) - 1))


@given(
    npst.arrays(np.int16, st.integers(0, 70), elements=symbols(32767)),
    st.integers(1, 16),
    st.integers(0, 32767),
)
def test_an_offset_is_added_before_packing(q, width, offset):
    moved = (q.astype(np.int32) + offset).astype(np.int16)
    assert check_same("pack", q, width, offset) == check_same("pack", moved, width)


@BOTH
def test_packed_bytes_of_another_length_are_refused(kernels):
    with pytest.raises(PacketError, match="4 bytes for 5 symbols of 4 bits"):
        kernels.unpack(bytes(4), 5, 4)


def test_long_arrays_are_the_same_in_every_form():
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(30_011) * rng.choice([1e-30, 1, 1e3], 30_011)).astype(np.float32)
    sizes = np.array([10_000, 0, 20_000, 11])
    kept = check_same("top_k", x, sizes, sizes // 5)
    extremes = check_same("extremes", x, kept, sizes)
    q = check_same("quantise_levels", x, kept, sizes, extremes, 7, 12345678901234)
    check_same("dequantise_points", q, sizes, np.arange(32, dtype=np.float32).reshape(4, 8))
    q, _ = check_same("quantise_dead_zone", x, np.float32(0.1), np.float32(0.35))
    check_same("dequantise_dead_zone", q, np.float32(0.1), np.float32(0.01), np.float32(0.02))
    rows = x[: 29 * 1024].reshape(29, 1024)
    for bits in (2, 4, 7):
        q, scales = check_same("quantise_rows", rows, bits)
        check_same("dequantise_rows", q, scales, bits)
        packed = check_same("pack", q.ravel(), bits)
        check_same("unpack", packed, q.size, bits)
    for block in (32, 256):
        q4, scales = check_same("quantise_rows", rows, 4, block)
        check_same("dequantise_rows", q4, scales, 4, block)
    for block in (512, 1024):
        check_same("hadamard", rows, block, inverse=False)
        check_same("hadamard", rows, block, inverse=True)
    check_same("sums", q)


@BOTH
def test_segments_that_do_not_add_up_are_a_mistake(kernels):
    x, kept = np.zeros(4, dtype=np.float32), np.zeros(4, dtype=np.uint8)
    for sizes in (np.array([5]), np.array([3]), np.array([-1, 5])):
        with pytest.raises(ValueError, match="4 are given"):
            kernels.top_k(x, sizes, sizes)
        with pytest.raises(ValueError, match="4 are given"):
            kernels.extremes(x, kept, sizes)


@BOTH
def test_settings_that_make_no_sense_are_a_mistake(kernels):
    x, q = np.zeros((2, 12), dtype=np.float32), np.zeros(4, dtype=np.int16)
    for block in (0, 3, 8, 24):
        with pytest.raises(ValueError, match="not a power of two"):
            kernels.hadamard(x, block, inverse=False)
        with pytest.raises(ValueError, match="not a power of two"):
            kernels.quantise_rows(x, 4, block)
    for width in (0, 17):
        with pytest.raises(ValueError, match="1 to 16"):
            kernels.pack(q, width)
    for bits in (1, 9):
        with pytest.raises(ValueError, match="2 to 8"):
            kernels.quantise_rows(x, bits)
