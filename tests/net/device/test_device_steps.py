"""A device's decisions, without tensors: what it says again, and what it does not believe."""

from dataclasses import replace

import pytest

from cutlayer.net.device.session import (
    Backward,
    Begin,
    Begun,
    DeviceSession,
    Diverged,
    EchoReceived,
    Forward,
    Forwarded,
    HangUp,
    Instruction,
    Invalid,
    Leave,
    Linked,
    PartReady,
    Prepare,
    Received,
    SaveState,
    Send,
    Stepped,
    Stop,
    Upload,
    Uploaded,
)
from cutlayer.net.wire.frames import Wire, server_limits
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Ask,
    Close,
    Echo,
    Ending,
    Gradient,
    Hello,
    Message,
    Micro,
    Open,
    Opening,
    Position,
    Probe,
    Refused,
    Weight,
    Welcome,
)
from net.server.test_server_session import BOUNDS, terms_of

TERMS = terms_of(0)
OPEN = Open(1, Opening(1.0, False), b"adapter")


class Desk:
    """A session, and the server's end of its wire."""

    def __init__(self, session: DeviceSession | None = None) -> None:
        self.session = session or DeviceSession()
        self.wire = Wire(server_limits(BOUNDS))

    def link(self) -> list[Message]:
        """A new connection."""
        self.wire = Wire(server_limits(BOUNDS))
        return self.heard(self.session.handle(Linked()))

    def say(self, message: Message) -> list[Instruction]:
        """One message of the server."""
        return self.session.handle(Received(self.wire.outgoing(message)))

    def heard(self, instructions: list[Instruction]) -> list[Message]:
        """What the server receives."""
        frames = [sent.frame for sent in instructions if isinstance(sent, Send)]
        return [self.wire.incoming(frame) for frame in frames]

    def welcome(self) -> None:
        """Up to the terms."""
        self.link()
        assert self.say(Welcome(TERMS)) == [Prepare(TERMS)]
        assert self.heard(self.session.handle(PartReady(BOUNDS))) == [Hello(0)]

    def begin(self) -> list[Instruction]:
        """Up to the first forward."""
        self.welcome()
        assert self.say(OPEN) == [Begin(OPEN)]
        stored, *probe = self.session.handle(Begun(OPEN))
        assert stored == SaveState(Position(1), TERMS)
        assert self.heard(probe) == [Probe()]
        return self.echo()

    def echo(self) -> list[Instruction]:
        """What the answer to a probe leads to."""
        heard, *out = self.say(Echo())
        assert heard == EchoReceived()
        return out

    def resume(self) -> list[Instruction]:
        """What a welcome on a new connection leads to, after the probe."""
        assert self.heard(self.say(Welcome(TERMS))) == [Probe()]
        return self.echo()


def _activation(step: int, micro: int) -> Activation:
    return Activation(Position(1, step, micro), Micro(0.5, micro == 1), b"up", b"labels", (1,))


def test_a_round_in_order() -> None:
    """Two local steps of two micro-batches; each state is on disk before the next message."""
    desk = Desk()
    next_up = [SaveState(Position(1), TERMS), *desk.begin()]
    for step in range(2):
        for micro in range(2):
            here = Position(1, step, micro)
            assert next_up == [SaveState(here, TERMS), Forward(here)]
            activation = _activation(step, micro)
            assert desk.heard(desk.session.handle(Forwarded(activation))) == [activation]
            gradient = Gradient(here, b"down")
            assert desk.say(gradient) == [Backward(gradient, micro == 1)]
            next_up = desk.session.handle(Stepped())
    assert next_up == [SaveState(Position(1, 2, 0), TERMS), Upload(1)]
    adapter = Adapter(1, Weight(1), b"row")
    assert desk.heard(desk.session.handle(Uploaded(adapter))) == [adapter]
    assert desk.say(Close(Ending(True))) == [Leave()]


def test_what_was_not_answered_is_said_again() -> None:
    desk = Desk()
    desk.begin()
    desk.session.handle(Forwarded(_activation(0, 0)))
    assert desk.link() == [Hello(1)]
    assert desk.heard(desk.resume()) == [_activation(0, 0)]


def test_a_round_that_opens_before_the_echo_has_an_echo_of_its_own() -> None:
    desk = Desk(DeviceSession(Position(1, 1, 0), TERMS))
    desk.link()
    desk.say(Welcome(TERMS))
    desk.heard(desk.session.handle(PartReady(BOUNDS)))
    assert desk.heard(desk.say(Welcome(TERMS))) == [Probe()]
    later = Open(2, OPEN.opening, b"adapter")
    assert desk.say(later) == [Begin(later)]
    assert desk.heard(desk.session.handle(Begun(later))) == [Probe()]
    assert desk.say(Echo()) == []
    assert desk.echo() == [Forward(Position(2, 0, 0))]
    (out,) = desk.say(Echo())
    assert isinstance(out, HangUp) and "Echo, which is not expected" in out.reason


def test_a_gradient_sent_twice_is_used_once() -> None:
    desk = Desk()
    desk.begin()
    desk.heard(desk.session.handle(Forwarded(_activation(0, 0))))
    desk.say(Gradient(Position(1, 0, 0), b"down"))
    desk.session.handle(Stepped())
    desk.heard(desk.session.handle(Forwarded(_activation(0, 1))))
    assert desk.say(Gradient(Position(1, 0, 0), b"down")) == []
    (out,) = desk.say(Gradient(Position(1, 1, 0), b"down"))
    assert isinstance(out, HangUp) and "nothing waits for" in out.reason


def test_a_stored_state_goes_on_where_it_stands() -> None:
    here = Position(1, 1, 1)
    desk = Desk(DeviceSession(here, TERMS))
    assert desk.link() == [Ask()]
    assert desk.say(Welcome(TERMS)) == [Prepare(TERMS)]
    assert desk.heard(desk.session.handle(PartReady(BOUNDS))) == [Hello(1)]
    assert desk.resume() == [Forward(here)]
    done = Desk(DeviceSession(Position(1, 2, 0), TERMS))
    done.link()
    done.say(Welcome(TERMS))
    done.heard(done.session.handle(PartReady(BOUNDS)))
    assert done.resume() == [Upload(1)]


def test_a_newer_round_takes_the_place_of_an_older_one() -> None:
    desk = Desk()
    desk.begin()
    desk.heard(desk.session.handle(Forwarded(_activation(0, 0))))
    later = Open(2, OPEN.opening, b"adapter")
    assert desk.say(later) == [Begin(later)]
    assert desk.heard(desk.session.handle(Begun(later))) == [Probe()]
    assert desk.echo() == [Forward(Position(2, 0, 0))]
    (out,) = desk.say(OPEN)
    assert isinstance(out, HangUp) and "Open, which is not expected" in out.reason


def test_a_server_that_is_behind_may_begin_anew() -> None:
    desk = Desk(DeviceSession(Position(5, 1, 0), TERMS))
    desk.link()
    desk.say(Welcome(TERMS))
    desk.heard(desk.session.handle(PartReady(BOUNDS)))
    fresh = replace(OPEN, opening=replace(OPEN.opening, fresh=True))
    assert desk.say(replace(fresh, round=2)) == [Begin(replace(fresh, round=2))]
    for wrong in (replace(OPEN, round=3), replace(fresh, round=0)):
        (out,) = desk.say(wrong)
        assert isinstance(out, HangUp) and "Open, which is not expected" in out.reason


@pytest.mark.parametrize(
    ("message", "kind", "reason"),
    [
        (Refused(), Stop, "refuses"),
        (Welcome(replace(TERMS, run="new")), Stop, "another run"),
        (Close(Ending(False)), HangUp, "closed the session"),
    ],
)
def test_a_server_may_say_no(message: Message, kind: type[Instruction], reason: str) -> None:
    desk = Desk(DeviceSession(Position(1), TERMS))
    desk.link()
    (out,) = desk.say(message)
    assert isinstance(out, kind) and isinstance(out, Stop | HangUp)
    assert reason in out.reason


def test_values_that_cannot_be_sent_end_the_connection_and_not_the_devices_part() -> None:
    """It would compute the same again in this round, and not in the next one."""
    desk = Desk()
    desk.begin()
    (out,) = desk.session.handle(Diverged("5 of 9 values are NaN"))
    assert isinstance(out, HangUp)
    assert "round 1, local step 0: 5 of 9 values are NaN" in out.reason


def test_bytes_that_are_no_frame_and_packets_that_are_none_end_the_connection() -> None:
    desk = Desk()
    desk.welcome()
    (out,) = desk.session.handle(Received(b"noise"))
    assert isinstance(out, HangUp)
    assert desk.session.handle(Invalid("no packet")) == [HangUp("no packet")]


def _frozen_desk() -> tuple[Desk, list[Instruction]]:
    """A device of a run whose part is frozen, up to its first forward."""
    desk = Desk()
    terms = replace(TERMS, frozen_from=1)
    desk.link()
    assert desk.say(Welcome(terms)) == [Prepare(terms)]
    assert desk.heard(desk.session.handle(PartReady(BOUNDS))) == [Hello(0)]
    assert desk.say(OPEN) == [Begin(OPEN)]
    stored, *probe = desk.session.handle(Begun(OPEN))
    assert stored == SaveState(Position(1), terms)
    assert desk.heard(probe) == [Probe()]
    return desk, desk.echo()


def _ahead(desk: Desk, out: list[Instruction]) -> list[Activation]:
    """Compute and send as long as the session wants it; what has been sent."""
    sent = []
    while out:
        (forward,) = out
        assert isinstance(forward, Forward)
        place = forward.position
        send, *out = desk.session.handle(Forwarded(_activation(place.step, place.micro)))
        sent += desk.heard([send])
    return sent


def test_where_nothing_comes_back_a_device_goes_on_before_it_is_answered() -> None:
    desk, out = _frozen_desk()
    first, second, third = _ahead(desk, out)
    assert [one.position for one in (first, second, third)] == [
        Position(1, 0, 0),
        Position(1, 0, 1),
        Position(1, 1, 0),
    ]
    assert desk.say(Gradient(first.position, b"")) == [
        Backward(Gradient(first.position, b""), False)
    ]
    saved, *out = desk.session.handle(Stepped())
    assert isinstance(saved, SaveState) and saved.position == second.position
    (fourth,) = _ahead(desk, out)
    assert fourth.position == Position(1, 1, 1)
    # a new connection: all that has no answer is said again, in order, and nothing else
    desk.link()
    assert desk.heard(desk.say(Welcome(replace(TERMS, frozen_from=1)))) == [Probe()]
    assert desk.heard(desk.echo()) == [second, third, fourth]
    for message in (second, third, fourth):
        assert len(desk.say(Gradient(message.position, b""))) == 1
        saved, *out = desk.session.handle(Stepped())
    assert out == [Upload(1)]


def test_an_answer_out_of_turn_ends_the_connection() -> None:
    desk, out = _frozen_desk()
    _, second, _ = _ahead(desk, out)
    (ended,) = desk.say(Gradient(second.position, b""))
    assert isinstance(ended, HangUp)
