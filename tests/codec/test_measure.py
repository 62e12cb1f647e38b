from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codec.codec import Codec, CodecState, Decoded, Encoded
from cutlayer.codec.measure import fidelity, measure


@final
@dataclass(frozen=True)
class Halver(Codec):
    """Sends float16; its first packet of a stream is longer, and both ends count the packets."""

    name: ClassVar[str] = "halver"

    def encode(
        self,
        tensor: np.ndarray,
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        count = int(state.get("count", np.array(0)))
        head = bytes(100) if count == 0 else b""
        body = bytes((count,)) + tensor.astype(np.float16).tobytes()
        return Encoded(body + head, {"count": np.array(count + 1)})

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        count = int(state.get("count", np.array(0)))
        assert packet[0] == count
        body = packet[1 : 1 + 2 * int(np.prod(shape))]
        values = np.frombuffer(body, dtype=np.float16).astype(np.float32).reshape(shape)
        return Decoded(values, (shape[1],) * shape[0], {"count": np.array(count + 1)})

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return 2.0 * float(np.prod(shape))


def _ticks(step_s: float):  # type: ignore[no-untyped-def]
    """A clock that goes on by `step_s` [s] at each look."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += step_s
        return now

    return clock


def test_the_last_tensor_is_measured_with_the_states_that_the_others_left() -> None:
    tensors = [np.full((2, 3, 4), value, dtype=np.float32) for value in (1.0, 2.0, 3.0)]
    done = measure(Halver(), tensors, 0, _ticks(0.25), repeats=3)
    assert len(done.packet) == 1 + 48
    np.testing.assert_array_equal(done.decoded, tensors[-1])
    assert (done.fidelity.error, done.elements) == (0.0, 24)
    assert done.bits == 8 * 49 / 24
    assert done.ratio == 32 / done.bits
    # one look before, one between, one after
    assert (done.encode_s, done.decode_s) == (0.25, 0.25)


def test_padding_does_not_count() -> None:
    tensor = np.ones((1, 3, 2), dtype=np.float32)
    tensor[0, 2] = 1000.0
    decoded = tensor.copy()
    decoded[0, 2] = 0.0

    @final
    @dataclass(frozen=True)
    class Dropper(Codec):
        name: ClassVar[str] = "dropper"

        def encode(
            self,
            tensor: np.ndarray,
            state: CodecState,
            rng: np.random.Generator,
            *,
            lengths: Sequence[int] | None = None,
            samples: Sequence[int] | None = None,
        ) -> Encoded:
            assert lengths == (2,)
            return Encoded(b"x", state)

        def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
            return Decoded(decoded, (2,), state)

        def expected_bytes(self, shape: tuple[int, int, int]) -> float:
            return 1.0

    done = measure(Dropper(), [tensor], 0, _ticks(1.0), lengths=[(2,)])
    assert (done.fidelity.error, done.fidelity.cosine) == (0.0, pytest.approx(1.0, abs=1e-15))


@given(st.floats(-1e3, 1e3).filter(lambda a: abs(a) > 1e-3), st.integers(0, 99))
def test_a_multiple_has_the_same_direction(factor: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=50).astype(np.float32)
    y = (factor * x.astype(np.float64)).astype(np.float32)
    close = fidelity(x, y)
    # y is rounded to float32: 2^-24 of each value
    assert close.cosine == pytest.approx(np.sign(factor), abs=1e-6)
    assert close.error == pytest.approx(abs(1.0 - factor), abs=1e-7 * abs(factor) + 1e-12)


def test_zeros_and_the_largest_numbers() -> None:
    zero, one = np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32)
    largest = np.full(3, np.finfo(np.float32).max)
    assert fidelity(zero, zero).error == 0.0 and fidelity(zero, zero).cosine == 1.0
    assert fidelity(zero, one).error == np.inf and fidelity(zero, one).cosine == 0.0
    assert fidelity(one, zero).error == 1.0 and fidelity(one, zero).cosine == 0.0
    assert fidelity(largest, -largest).error == pytest.approx(2.0)
