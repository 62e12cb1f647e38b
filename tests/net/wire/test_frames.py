"""Frames: what goes in comes out, and nothing else comes out of anything else."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import FrameError
from cutlayer.net.wire.frames import (
    Frame,
    FrameSection,
    Kind,
    Limits,
    from_bytes,
    largest_frame,
    to_bytes,
)
from cutlayer.net.wire.messages import Position

MOST = 40
LIMITS: Limits = {
    Kind.HELLO: {},
    Kind.ACTIVATION: {
        FrameSection.SETTINGS: MOST,
        FrameSection.ACTIVATION: MOST,
        FrameSection.LABELS: 8,
    },
    Kind.GRADIENT: {FrameSection.GRADIENT: MOST},
}
U32 = st.integers(0, 2**32 - 1)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Any frame within the limits, its sections in any order."""
    kind = draw(st.sampled_from(list(LIMITS)))
    tags = draw(st.permutations(list(LIMITS[kind])))
    sections = {tag: draw(st.binary(max_size=LIMITS[kind][tag])) for tag in tags}
    position = Position(draw(U32), draw(U32), draw(U32))
    return Frame(kind, position, draw(st.integers(0, 2**64 - 1)), sections)


@given(frames())
def test_round_trip(frame: Frame) -> None:
    data = to_bytes(frame)
    assert from_bytes(data, LIMITS) == frame
    assert len(data) <= largest_frame(LIMITS)


@given(frames(), st.data())
def test_a_frame_that_is_cut_short_is_refused(frame: Frame, draw: st.DataObject) -> None:
    data = to_bytes(frame)
    with pytest.raises(FrameError):
        from_bytes(data[: draw.draw(st.integers(0, len(data) - 1))], LIMITS)


@given(frames(), st.data())
def test_a_forged_frame_is_refused_or_read_as_it_is(frame: Frame, draw: st.DataObject) -> None:
    """Bytes changed, cut out or put in: TLS lets nobody but the other end itself do so."""
    data = bytearray(to_bytes(frame))
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data) - 1))
        match draw.draw(st.sampled_from(("change", "cut", "insert"))):
            case "change":
                data[at] = draw.draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw.draw(st.integers(1, 9))]
            case _:
                data[at:at] = draw.draw(st.binary(min_size=1, max_size=9))
        if not data:
            break
    forged = bytes(data)
    try:
        found = from_bytes(forged, LIMITS)
    except FrameError:
        return
    assert to_bytes(found) == forged
    assert all(len(own) <= LIMITS[found.kind][tag] for tag, own in found.sections.items())


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    """It has no magic, or is of another version."""
    for data in (noise, b"CUTF\x01" + noise):
        with pytest.raises(FrameError):
            from_bytes(data, LIMITS)


def test_a_claimed_length_allocates_nothing() -> None:
    """A section that claims 4 GiB is refused by the table."""
    data = bytearray(to_bytes(Frame(Kind.GRADIENT, Position(), 0, {FrameSection.GRADIENT: b"abc"})))
    struct.pack_into("<I", data, len(data) - 3 - 4, 2**32 - 1)
    with pytest.raises(FrameError, match="GRADIENT of 4294967295 bytes, at most 40"):
        from_bytes(bytes(data), LIMITS)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (Frame(Kind.OPEN, Position(), 0, {}), "kind 4, which is not expected"),
        (Frame(Kind.HELLO, Position(), 0, {FrameSection.LABELS: b""}), "at most|HELLO has"),
        (Frame(Kind.GRADIENT, Position(), 0, {FrameSection.LABELS: b""}), "section 4, unexpected"),
        (Frame(Kind.GRADIENT, Position(), 0, {}), "of 0 sections"),
        (Frame(Kind.GRADIENT, Position(), 0, {FrameSection.GRADIENT: bytes(41)}), "GRADIENT has"),
    ],
)
def test_only_what_is_expected_is_taken(frame: Frame, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        from_bytes(to_bytes(frame), LIMITS)


def test_another_version_is_named() -> None:
    data = bytearray(to_bytes(Frame(Kind.HELLO, Position(), 0, {})))
    data[4] = 1
    message = "version 1, expected 2; run the same version on both ends"
    with pytest.raises(FrameError, match=message):
        from_bytes(bytes(data), LIMITS)


def test_the_bytes_of_version_2() -> None:
    """Golden: a change here is a new version."""
    frame = Frame(Kind.GRADIENT, Position(1, 2, 3), 4, {FrameSection.GRADIENT: b"abc"})
    body = bytes.fromhex("43555446 02 06 01 00 01000000 02000000 03000000 0400000000000000")
    assert to_bytes(frame) == body + bytes.fromhex("06 03000000") + b"abc"
