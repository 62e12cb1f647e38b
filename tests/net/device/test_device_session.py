"""A device's session before it is ready: it asks, fetches its part, and only then says hello."""

from dataclasses import replace

import pytest

from cutlayer.net.device.session import (
    DeviceSession,
    HangUp,
    Instruction,
    Invalid,
    Keep,
    Linked,
    NeedBytes,
    PartReady,
    Prepare,
    Received,
    Send,
    Stop,
)
from cutlayer.net.wire.frames import Wire, bounds_of, server_limits
from cutlayer.net.wire.messages import (
    Ask,
    Fetch,
    Hello,
    Message,
    PartPiece,
    PartRange,
    Position,
    Refused,
    Welcome,
)
from cutlayer.spec import MiniBatch
from net.wire.test_messages import TERMS

BOUNDS = bounds_of(MiniBatch(4, 16), 24, 100, 4)


class Table:
    """A session, and the server's end of its wire."""

    def __init__(self, session: DeviceSession) -> None:
        self.session = session

    def link(self) -> Message:
        """What the device says first on a new connection."""
        self.wire = Wire(server_limits(BOUNDS))
        return self.sent(self.session.handle(Linked()))

    def sent(self, out: list[Instruction]) -> Message:
        (only,) = out
        assert isinstance(only, Send)
        return self.wire.incoming(only.frame)

    def hears(self, message: Message) -> list[Instruction]:
        return self.session.handle(Received(self.wire.outgoing(message)))


def test_from_the_question_to_hello() -> None:
    table = Table(DeviceSession())
    assert table.link() == Ask()
    assert table.hears(Welcome(TERMS)) == [Prepare(TERMS)]
    assert table.sent(table.session.handle(NeedBytes(PartRange(0, 9)))) == Fetch(PartRange(0, 9))
    piece = PartPiece(PartRange(0, 9), b"all")
    assert table.hears(piece) == [Keep(TERMS, piece)]
    assert table.sent(table.session.handle(PartReady(BOUNDS))) == Hello(0)


def test_a_link_that_breaks_while_fetching() -> None:
    table = Table(DeviceSession())
    table.link()
    table.hears(Welcome(TERMS))
    table.session.handle(NeedBytes(PartRange(0, 9)))
    assert table.link() == Ask()
    assert table.hears(Welcome(TERMS)) == [Prepare(TERMS)]
    assert table.sent(table.session.handle(NeedBytes(PartRange(7, 9)))) == Fetch(PartRange(7, 9))


def test_a_ready_device_says_hello_at_once() -> None:
    table = Table(DeviceSession())
    table.link()
    table.hears(Welcome(TERMS))
    table.session.handle(PartReady(BOUNDS))
    assert table.link() == Hello(0)


def test_a_state_of_other_samples_is_nowhere() -> None:
    table = Table(DeviceSession(Position(2, 1, 0), TERMS))
    table.link()
    assert table.hears(Welcome(TERMS)) == [Prepare(TERMS)]
    assert table.sent(table.session.handle(PartReady(BOUNDS, void=True))) == Hello(0)
    assert table.link() == Hello(0)


def test_a_run_may_go_on_longer_and_at_another_rate() -> None:
    table = Table(DeviceSession(Position(2, 1, 0), TERMS))
    table.link()
    longer = replace(TERMS, rounds=TERMS.rounds + 5, uplink_bit_s=1e6)
    assert table.hears(Welcome(longer)) == [Prepare(longer)]


def test_a_stored_state_tells_its_round() -> None:
    table = Table(DeviceSession(Position(2, 1, 0), TERMS))
    assert table.link() == Ask()
    table.hears(Welcome(TERMS))
    assert table.sent(table.session.handle(PartReady(BOUNDS))) == Hello(2)


def test_a_spoilt_piece_ends_the_connection() -> None:
    table = Table(DeviceSession())
    table.link()
    assert table.session.handle(Invalid("no")) == [HangUp("no")]


def test_a_piece_that_nobody_asked_for() -> None:
    table = Table(DeviceSession())
    table.link()
    (out,) = table.hears(PartPiece(PartRange(0, 9), b"x"))
    assert isinstance(out, HangUp) and "Piece, which is not expected" in out.reason


@pytest.mark.parametrize(
    ("message", "words"),
    [(Welcome(replace(TERMS, run="new")), "another run"), (Refused(), "refuses this device")],
)
def test_what_trying_again_would_not_help(message: Message, words: str) -> None:
    table = Table(DeviceSession(Position(2), TERMS))
    table.link()
    (out,) = table.hears(message)
    assert isinstance(out, Stop) and words in out.reason
