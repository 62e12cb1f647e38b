"""Frozen weights as bytes and back: every bit, in every form, in fewer bytes where that pays."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import Native, load_kernels
from cutlayer.codec.kernels.portable import Portable
from cutlayer.codec.weights import SLICE_VALUES, Numbers, decode_slice, encode_slice, encode_weights
from cutlayer.errors import PacketError

KERNELS = load_kernels()
FLOAT32, BFLOAT16, INT8 = Numbers(4, turned=True), Numbers(2, turned=True), Numbers(1)
EACH = [FLOAT32, BFLOAT16, Numbers(2), INT8, Numbers(8), Numbers(4)]


def normal(count: int, scale: float = 0.02) -> np.ndarray:
    return np.random.default_rng(3).normal(0, scale, count).astype("<f4")


def decoded(code: bytes, count: int, numbers: Numbers, kernels: Kernels = KERNELS) -> bytes:
    data, read = decode_slice(memoryview(code), count, numbers, kernels)
    assert read == len(code)
    return data


@pytest.mark.parametrize("numbers", EACH, ids=str)
@given(data=st.data())
def test_any_bytes_come_back(numbers: Numbers, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 300))
    few = data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=4))
    size = count * numbers.width
    one = data.draw(st.binary(min_size=size, max_size=size))
    for octets in (one, bytes(few[at % len(few)] for at in range(size))):
        code = encode_slice(memoryview(octets), numbers, KERNELS)
        assert decoded(code, count, numbers) == octets
        assert len(code) <= numbers.most_bytes(size)


@pytest.mark.parametrize(
    ("values", "numbers", "most"),
    [
        (normal(50_000), FLOAT32, 0.84),
        # the upper half of a float32 is the bfloat16, rounded down
        (normal(50_000).view("<u2")[1::2], BFLOAT16, 0.68),
        ((normal(50_000).view("<u4") & 0xFFFF0000), FLOAT32, 0.34),
        ((normal(50_000) * 1600).astype(np.int8), INT8, 0.90),
        (np.arange(50_000, dtype="<i8"), Numbers(8), 0.26),
    ],
)
def test_weights_become_smaller(values: np.ndarray, numbers: Numbers, most: float) -> None:
    data = memoryview(np.ascontiguousarray(values)).cast("B")
    code = encode_slice(data, numbers, KERNELS)
    assert len(code) < most * len(data)
    assert decoded(code, len(values), numbers) == bytes(data)


def test_what_cannot_be_smaller_stays_as_it_is() -> None:
    data = np.random.default_rng(5).bytes(40_000)
    code = encode_slice(memoryview(data), FLOAT32, KERNELS)
    assert len(code) == len(data) + 4 == FLOAT32.most_bytes(len(data))
    zeros = encode_slice(memoryview(bytes(40_000)), FLOAT32, KERNELS)
    assert len(zeros) == 8


def test_slices_are_decoded_alone() -> None:
    data = normal(SLICE_VALUES + 5).tobytes()
    codes = list(encode_weights(memoryview(data), FLOAT32, KERNELS))
    assert len(codes) == 2
    assert decoded(codes[1], 5, FLOAT32) == data[-20:]


@pytest.mark.parametrize("form", [Portable(), Native(), Native(threads=2)])
def test_the_same_bytes_from_every_form(form: Kernels) -> None:
    """On the wire and in devices' stores: a change is a change of format."""
    bits = np.random.default_rng(3).integers(0, 1 << 32, 3000, dtype=np.uint32)
    data = (bits & 0x81FFF000 | 0x3C000000).astype("<u4")
    code = encode_slice(memoryview(data).cast("B"), FLOAT32, form)
    assert hashlib.sha256(code).hexdigest()[:16] == "397a094fe93e4c85"
    assert decoded(code, 3000, FLOAT32, form) == data.tobytes()


@given(at=st.integers(0, 10**6), change=st.integers(1, 255), cut=st.integers(0, 10**6))
def test_damaged_code_is_refused_or_decodes_to_as_much(at: int, change: int, cut: int) -> None:
    data = normal(400).tobytes()
    code = bytearray(encode_slice(memoryview(data), FLOAT32, KERNELS))
    code[at % len(code)] ^= change
    for damaged in (bytes(code), bytes(code[: cut % len(code)])):
        for form in (KERNELS, Portable()):
            try:
                found, _ = decode_slice(memoryview(damaged), 400, FLOAT32, form)
            except PacketError:
                continue
            assert len(found) == len(data)


@pytest.mark.parametrize(
    "code", [b"", b"\x00", b"\x03abc", b"\x01ab", b"\x02\xff\xff\xff\xff\x00\x01"]
)
def test_no_code_at_all(code: bytes) -> None:
    with pytest.raises(PacketError, match="weights"):
        decode_slice(memoryview(code), 3, INT8, KERNELS)
