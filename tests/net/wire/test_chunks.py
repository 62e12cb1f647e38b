"""Frames survive being cut into chunks; no sequence of chunks makes anything but frames or an
error."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import FrameError
from cutlayer.net.wire.link import CHUNK_BYTES, ChunkReader, chunks_of
from cutlayer.units import MIB

ROOM = CHUNK_BYTES - 4
LARGEST = 4 * MIB


def frame_of(count: int) -> bytes:
    """Bytes that tell their place."""
    return (b"0123456789abcdef-" * (count // 17 + 1))[:count]


@pytest.mark.parametrize("count", [0, 1, ROOM - 1, ROOM, ROOM + 1, 2 * ROOM, 2 * ROOM + 1, LARGEST])
def test_a_frame_comes_back(count: int) -> None:
    chunks = list(chunks_of(frame_of(count)))
    assert all(len(chunk) <= CHUNK_BYTES for chunk in chunks)
    assert len(chunks) == max(1, -(-count // ROOM))
    reader = ChunkReader(LARGEST)
    *before, last = [reader.feed(chunk) for chunk in chunks]
    assert before == [None] * (len(chunks) - 1)
    assert last == frame_of(count)
    assert not reader.within_frame


@given(st.lists(st.integers(0, 3 * ROOM), max_size=4))
def test_frames_follow_each_other(counts: list[int]) -> None:
    reader = ChunkReader(LARGEST)
    frames = [reader.feed(chunk) for count in counts for chunk in chunks_of(bytes(count))]
    assert [len(frame) for frame in frames if frame is not None] == counts


def test_a_frame_beyond_the_limit_is_refused_at_its_first_chunk() -> None:
    reader = ChunkReader(LARGEST)
    with pytest.raises(FrameError, match=r"a frame of 4\.00 MiB where 4\.00 MiB are the limit"):
        reader.feed(next(chunks_of(bytes(LARGEST + 1))))
    assert not reader.within_frame


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([b""], "chunk of 0 bytes"),
        ([b"\x00\x00\x00"], "chunk of 3 bytes"),
        ([bytes(CHUNK_BYTES + 1)], "chunk of 1048577 bytes"),
        ([b"\x02\x00\x00\x00a"], "holds 1 of 2 bytes"),  # parts that are not full
        ([b"\x02\x00\x00\x00abc"], "holds 3 of 2 bytes"),
        ([b"\x00\x00\x00\x00a"], "holds 1 of 0 bytes"),
        ([*list(chunks_of(bytes(ROOM + 2)))[:1], b"\x01\x00\x00\x00a"], "1 bytes to come where 2"),
        ([*list(chunks_of(bytes(ROOM + 2)))[:1], b"\x00\x00\x00\x00"], "0 bytes to come where 2"),
        (list(chunks_of(bytes(ROOM + 2)))[:1] * 2, "to come where 2 were"),  # replayed
    ],
)
def test_other_chunks_are_refused(chunks: list[bytes], message: str) -> None:
    reader = ChunkReader(LARGEST)
    with pytest.raises(FrameError, match=message):
        for chunk in chunks:
            assert reader.feed(chunk) is None


@st.composite
def hostile_chunks(draw: st.DrawFn) -> list[bytes]:
    """Chunks of real frames, some of them damaged, left out, repeated or replaced by noise."""
    chunks: list[bytes] = []
    for count in draw(st.lists(st.sampled_from([0, 1, 5, ROOM, ROOM + 1, 2 * ROOM]), max_size=3)):
        chunks += chunks_of(bytes(count))
    for _ in range(draw(st.integers(0, 3))):
        where = draw(st.integers(0, len(chunks)))
        what = draw(st.sampled_from(["noise", "drop", "repeat", "header", "cut"]))
        if what == "noise" or where == len(chunks):
            chunks.insert(where, draw(st.binary(max_size=12)))
        elif what == "drop":
            del chunks[where]
        elif what == "repeat":
            chunks.insert(where, chunks[where])
        elif what == "header":
            chunks[where] = draw(st.binary(min_size=4, max_size=4)) + chunks[where][4:]
        else:
            chunks[where] = chunks[where][: draw(st.integers(0, len(chunks[where])))]
    return chunks


@given(hostile_chunks())
def test_hostile_chunks_make_whole_frames_or_an_error(chunks: list[bytes]) -> None:
    """Every byte of a frame was in a chunk, no frame exceeds the limit, and nothing else is
    raised."""
    largest = 2 * ROOM
    reader = ChunkReader(largest)
    arrived = delivered = 0
    with contextlib.suppress(FrameError):
        for chunk in chunks:
            frame = reader.feed(chunk)
            arrived += len(chunk) - 4
            if frame is not None:
                assert len(frame) <= largest
                delivered += len(frame)
            if not reader.within_frame:
                assert delivered == arrived
