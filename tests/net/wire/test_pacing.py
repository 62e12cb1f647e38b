"""The token bucket's law, a paced link in virtual time, and how fast a connection may ask."""

import asyncio
import itertools
import math
from typing import final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.net.wire.frames import encode_message
from cutlayer.net.wire.link import (
    Link,
    LinkClosed,
    PacedLink,
    QuestionPace,
    TokenBucket,
    full_bucket,
)
from cutlayer.net.wire.messages import (
    Ask,
    Fetch,
    Gradient,
    Hello,
    Message,
    PartRange,
    Position,
    Probe,
)

# amounts and waits are sums of up to 30 doubles: errors of some 1e-14, relative
ROUNDING = 1e-9


class VirtualTime:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@final
class Wire(Link):
    """Notes what was sent, and when."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self.sent: list[tuple[float, bytes]] = []
        self.closed = ""

    @property
    def peer(self) -> str:
        return "the other end"

    async def send(self, frame: bytes) -> None:
        self.sent.append((self._time.now_s, frame))

    async def receive(self) -> bytes:
        return b"received"

    async def close(self, reason: str = "") -> None:
        self.closed = reason


amounts = st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 3.0)), min_size=1, max_size=30)


@given(amounts, st.floats(0.5, 20.0), st.floats(1.0, 40.0))
def test_no_window_gets_more_than_rate_and_burst(
    arrivals: list[tuple[float, float]], rate_per_s: float, burst: float
) -> None:
    """Amounts come at any time and each waits its turn; every window between two of them is
    looked at."""
    now_s = 0.0
    bucket = full_bucket(rate_per_s, burst, now_s)
    taken: list[tuple[float, float]] = []
    for amount, idle_s in arrivals:
        now_s += idle_s
        bucket = bucket.at(now_s).take(amount)
        now_s += bucket.wait_s
        taken.append((now_s, amount))
    beyond = max(burst, *(amount for _, amount in taken))
    for first, last in itertools.combinations_with_replacement(range(len(taken)), 2):
        window_s = taken[last][0] - taken[first][0]
        total = sum(amount for _, amount in taken[first : last + 1])
        assert total <= (rate_per_s * window_s + beyond) * (1 + ROUNDING) + ROUNDING


@given(st.floats(0.5, 20.0), st.lists(st.floats(0.1, 50.0), min_size=1, max_size=30))
def test_who_always_has_something_gets_the_whole_rate(
    rate_per_s: float, wanted: list[float]
) -> None:
    """All but the burst takes its time at the rate, and no longer."""
    bucket = full_bucket(rate_per_s, 1.0, 0.0)
    now_s = 0.0
    for amount in wanted:
        bucket = bucket.at(now_s).take(amount)
        now_s += bucket.wait_s
    assert now_s == pytest.approx(max(0.0, sum(wanted) - 1.0) / rate_per_s, abs=ROUNDING)


def test_a_clock_that_jumps_back_gives_nothing_twice() -> None:
    bucket = TokenBucket(rate_per_s=1.0, burst=100.0, level=0.0, at_s=0.0)
    there = bucket.at(10.0)
    assert there.level == 10.0
    assert there.at(4.0).level == 10.0
    assert there.at(4.0).at(10.0).level == 10.0
    assert there.at(4.0).at(11.0).level == 11.0


def test_a_frame_arrives_as_over_a_line_of_that_rate() -> None:
    time = VirtualTime()
    wire = Wire(time)

    async def run() -> None:
        link = PacedLink(wire, lambda: 8e6, burst_bytes=1000, clock=time.clock, sleep=time.sleep)
        await link.send(bytes(1_001_000))
        await link.send(b"")
        await link.send(bytes(500_000))

    asyncio.run(run())
    # 1 MB/s, and the first 1000 bytes were in the bucket
    assert [at_s for at_s, _ in wire.sent] == pytest.approx([1.0, 1.0, 1.5])
    assert [len(frame) for _, frame in wire.sent] == [1_001_000, 0, 500_000]


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(0.0, 2.0)), min_size=1, max_size=20),
    st.floats(100.0, 1e5),
    st.integers(1, 4000),
)
def test_a_paced_link_keeps_to_its_share(
    frames: list[tuple[int, float]], rate_bit_s: float, burst_bytes: int
) -> None:
    """In any window: the rate, the burst and the frame that ends in it."""
    time = VirtualTime()
    wire = Wire(time)

    async def run() -> None:
        link = PacedLink(wire, lambda: rate_bit_s, burst_bytes, time.clock, time.sleep)
        for count, idle_s in frames:
            await time.sleep(idle_s)
            await link.send(bytes(count))

    asyncio.run(run())
    largest = max(count for count, _ in frames)
    for first, last in itertools.combinations_with_replacement(range(len(wire.sent)), 2):
        window_s = wire.sent[last][0] - wire.sent[first][0]
        total = sum(len(frame) for _, frame in wire.sent[first : last + 1])
        allowed = rate_bit_s / 8 * window_s + burst_bytes + largest
        assert total <= allowed * (1 + ROUNDING)


def test_a_new_rate_counts_from_the_next_frame_on() -> None:
    time = VirtualTime()
    wire = Wire(time)

    async def run() -> None:
        rate_bit_s = 8e6
        link = PacedLink(wire, lambda: rate_bit_s, 1000, clock=time.clock, sleep=time.sleep)
        await link.send(bytes(1_001_000))
        rate_bit_s = 4e6
        await link.send(bytes(1_000_000))

    asyncio.run(run())
    assert [at_s for at_s, _ in wire.sent] == pytest.approx([1.0, 3.0])


def test_frames_of_several_senders_take_turns_within_the_rate() -> None:
    time = VirtualTime()
    wire = Wire(time)

    async def run() -> None:
        link = PacedLink(wire, lambda: 8e6, burst_bytes=1000, clock=time.clock, sleep=time.sleep)
        await asyncio.gather(*(link.send(bytes(250_250)) for _ in range(4)))

    asyncio.run(run())
    assert math.isclose(time.now_s, 1.0, rel_tol=ROUNDING)


def test_closing_ends_the_waiting() -> None:
    """What waits is not sent, nor is what comes after it."""
    wire = Wire(VirtualTime())

    async def for_ever(_: float) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        link = PacedLink(wire, lambda: 8.0, burst_bytes=1, sleep=for_ever)
        sending = [asyncio.create_task(link.send(bytes(1000))) for _ in range(2)]
        await asyncio.sleep(0)
        await link.close()
        for task in sending:
            with pytest.raises(LinkClosed):
                await task

    asyncio.run(run())
    assert wire.sent == []


def test_giving_up_a_frame_that_waits_is_no_closing() -> None:
    time = VirtualTime()
    wire, first = Wire(time), asyncio.Event()

    async def sleep(seconds: float) -> None:
        if not first.is_set():
            first.set()
            await asyncio.Event().wait()
        await time.sleep(seconds)

    async def run() -> None:
        link = PacedLink(wire, lambda: 8.0, burst_bytes=1, clock=time.clock, sleep=sleep)
        sending = asyncio.create_task(link.send(bytes(10)))
        await first.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await link.send(b"next")

    asyncio.run(run())
    assert [frame for _, frame in wire.sent] == [b"next"]


def test_the_rest_is_the_other_links() -> None:
    time = VirtualTime()
    wire = Wire(time)

    async def run() -> None:
        link = PacedLink(wire, lambda: 8e6)
        assert link.peer == "the other end"
        assert await link.receive() == b"received"
        await link.close("done")

    asyncio.run(run())
    assert wire.closed == "done"


GRADIENT = Gradient(Position(1, 0, 0), bytes(100))


@pytest.mark.parametrize(
    ("question", "rate"), [(Ask(), 10), (Probe(), 10), (Fetch(PartRange(0, 1)), 50)]
)
def test_questions_beyond_two_seconds_of_them_wait(question: Message, rate: int) -> None:
    pace, frame = QuestionPace(), encode_message(question, 0)
    assert [pace.wait_s(frame, 0.0) for _ in range(2 * rate)] == [0.0] * (2 * rate)
    assert pace.wait_s(frame, 0.0) == pytest.approx(1 / rate)
    assert pace.wait_s(frame, 3.0) == 0.0
    assert pace.wait_s(encode_message(Hello(0), 0), 0.0) == 0.0


def test_what_trains_is_never_paced() -> None:
    pace, frame = QuestionPace(), encode_message(GRADIENT, 0)
    assert {pace.wait_s(frame, 0.0) for _ in range(1000)} == {0.0}
