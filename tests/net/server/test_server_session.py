"""The server's decisions, without tensors: what it refuses, repeats, waits for."""

from dataclasses import replace

import pytest

from cutlayer.errors import ConfigError
from cutlayer.net.server.devices import DeviceProgress
from cutlayer.net.server.events import (
    AdapterStored,
    AppendToJournal,
    BatchTrained,
    Checkpoint,
    Finish,
    GiveUp,
    GradientReady,
    HangUpOn,
    Instruction,
    InvalidFrom,
    Joined,
    Left,
    Merge,
    Merged,
    PieceRead,
    Read,
    ReceivedFrom,
    Renew,
    Renewed,
    Saved,
    SendTo,
    StoreAdapter,
    Tick,
    Train,
    Warn,
)
from cutlayer.net.server.session import RunPlan, ServerSession
from cutlayer.net.wire.frames import Wire, bounds_of, device_limits
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Ask,
    Close,
    Ending,
    Fetch,
    Gradient,
    Hello,
    Message,
    Micro,
    Open,
    PartPiece,
    PartRange,
    Position,
    Terms,
    Weight,
    Welcome,
)
from cutlayer.rounds.participants import RoundEnd
from cutlayer.spec import MiniBatch

BOUNDS = bounds_of(MiniBatch(4, 5), 6, 100, 4)


def terms_of(device: int) -> Terms:
    """A run of two rounds of two steps of two micro-batches."""
    return Terms(
        run="run",
        device=device,
        task="image-classification",
        classes=2,
        class_names=["a", "b"],
        width=24,
        tokens=16,
        part_sha256="0" * 64,
        manifest_bytes=100,
        uplink_bit_s=None,
        rounds=2,
        local_steps=2,
        micro_batches=2,
        settings={},
    )


SHARES = (0.75, 0.25)


class Table:
    """A session, and the devices' ends of its wires."""

    def __init__(
        self,
        devices: int = 2,
        quorum: int = 1,
        deadline_s: float | None = 10.0,
        give_up_s: float | None = None,
        frozen_from: int | None = None,
        rounds: int = 2,
    ) -> None:
        terms = tuple(
            replace(terms_of(device), frozen_from=frozen_from, rounds=rounds)
            for device in range(devices)
        )
        shares = (1.0 / devices,) * devices
        end = RoundEnd(devices, quorum, deadline_s, give_up_s)
        name_of = {0: "pi-0"}.get
        self.plan = RunPlan(terms, shares, end, BOUNDS, name_of)
        self.session = ServerSession(self.plan, b"adapter 0")
        self.wires: dict[int, Wire] = {}

    def say(self, device: int, message: Message) -> list[Instruction]:
        """One message of a device."""
        return self.session.handle(ReceivedFrom(device, self.wires[device].outgoing(message)))

    def join(self, device: int, known: int = 0) -> list[Instruction]:
        """A new connection, and its hello."""
        self.session.handle(Joined(device))
        self.wires[device] = Wire(device_limits(BOUNDS))
        return self.say(device, Hello(known))

    def heard(self, instructions: list[Instruction]) -> list[tuple[int, Message]]:
        """What the devices receive."""
        return [
            (sent.device, self.wires[sent.device].incoming(sent.frame))
            for sent in instructions
            if isinstance(sent, SendTo)
        ]

    def step(self, device: int, position: Position, *, last: bool) -> list[Instruction]:
        """One micro-batch of a device, trained."""
        message = _activation(position, last=last)
        assert self.say(device, message) == [Train(device, message)]
        return self.session.handle(BatchTrained((GradientReady(device, message, b"gradient"),)))

    def merged(
        self,
        made: tuple[int, ...],
        adapter: bytes,
        shares: tuple[float, ...],
        *,
        ended: bool = False,
    ) -> list[Instruction]:
        """A round that has closed, and is on disk."""
        out = self.session.handle(Merged(made, adapter, shares))
        assert out == [Checkpoint(self.session.round - 1)]
        return self.session.handle(Saved(ended))

    def round(self, device: int, number: int) -> list[Instruction]:
        """A device's round, up to its adapter."""
        for step in range(2):
            for micro in range(2):
                place = Position(number, step, micro)
                self.heard(self.step(device, place, last=micro == 1))
        adapter = Adapter(number, Weight(1), b"row")
        assert self.say(device, adapter) == [StoreAdapter(device, adapter)]
        return self.session.handle(AdapterStored(device, adapter))


def _activation(position: Position, *, last: bool) -> Activation:
    return Activation(position, Micro(0.5, last), b"activation", b"labels", (1,))


FIRST = Position(1, 0, 0)


def test_a_device_is_told_terms_round_and_adapter() -> None:
    table = Table()
    (_, welcome), (_, opened) = table.heard(table.join(1))
    assert welcome == Welcome(terms_of(1))
    assert isinstance(opened, Open)
    assert (opened.round, opened.adapter, opened.opening.fresh) == (1, b"adapter 0", False)
    assert opened.opening.share == 0.5


def test_what_is_answered_is_on_disk_before() -> None:
    table = Table()
    table.heard(table.join(0))
    out = table.step(0, FIRST, last=False)
    assert isinstance(out[0], AppendToJournal) and isinstance(out[1], SendTo)
    assert out[0] == AppendToJournal(0, _activation(FIRST, last=False))
    assert table.heard(out) == [(0, Gradient(FIRST, b"gradient"))]


def test_a_batch_is_in_the_journal_whole_before_any_reply() -> None:
    """Both devices' activations come before the outcome; a crash between two entries leaves a pass
    that nobody was told of."""
    table = Table()
    for device in range(2):
        table.heard(table.join(device))
    messages = [_activation(Position(1, 0, 0), last=False) for _ in range(2)]
    for device, message in enumerate(messages):
        assert table.say(device, message) == [Train(device, message)]
    order = (1, 0)
    batch = tuple(GradientReady(device, messages[device], b"gradient") for device in order)
    *entries, first, second = table.session.handle(BatchTrained(batch))
    assert entries == [
        AppendToJournal(1, messages[1], more=True),
        AppendToJournal(0, messages[0], more=False),
    ]
    reply = Gradient(Position(1, 0, 0), b"gradient")
    assert table.heard([first, second]) == [(1, reply), (0, reply)]


def test_a_step_sent_again_is_answered_again_and_not_trained() -> None:
    table = Table()
    table.heard(table.join(0))
    table.heard(table.step(0, FIRST, last=False))
    table.session.handle(Left(0))
    (only,) = table.heard(table.join(0, known=1))
    assert only[1] == Welcome(terms_of(0))
    again = table.say(0, _activation(FIRST, last=False))
    assert table.heard(again) == [(0, Gradient(FIRST, b"gradient"))]
    assert not any(isinstance(one, Train | AppendToJournal) for one in again)


def test_where_nothing_comes_back_all_that_was_trained_is_answered_again() -> None:
    """Several may have been on their way when the connection broke."""
    table = Table(frozen_from=1)
    table.heard(table.join(0))
    places = [Position(1, 0, 0), Position(1, 0, 1), Position(1, 1, 0)]
    for place in places:
        table.heard(table.step(0, place, last=place.micro == 1))
    table.session.handle(Left(0))
    table.heard(table.join(0, known=1))
    for place in places[:2]:
        again = table.say(0, _activation(place, last=place.micro == 1))
        assert table.heard(again) == [(0, Gradient(place, b""))]
        assert not any(isinstance(one, Train | AppendToJournal) for one in again)


def test_an_adapter_that_is_frozen_is_sent_once() -> None:
    """As the first round without training opens; later to those alone who have lost it."""
    table = Table(frozen_from=2, rounds=3)
    table.heard(table.join(0))
    table.heard(table.join(1))
    table.round(0, 1)
    table.round(1, 1)
    opened = dict(table.heard(table.merged((0, 1), b"adapter 1", SHARES)))
    assert [opened[n].adapter for n in range(2)] == [b"adapter 1"] * 2  # type: ignore[union-attr]
    table.round(0, 2)
    table.session.handle(Tick(10.0))
    opened = dict(table.heard(table.merged((0,), b"adapter 1", SHARES)))
    assert opened[0].adapter == b"" and opened[1].adapter == b"adapter 1"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("position", "last"),
    [
        (Position(1, 0, 1), True),
        (Position(1, 1, 0), False),
        (Position(2, 0, 0), False),
        (Position(1, 2, 0), False),
    ],
)
def test_a_step_out_of_order_ends_the_connection(position: Position, last: bool) -> None:
    table = Table()
    table.heard(table.join(0))
    (out,) = table.say(0, _activation(position, last=last))
    assert isinstance(out, HangUpOn) and "expected" in out.reason
    assert table.say(0, _activation(FIRST, last=False)) == []


def test_a_mini_batch_has_no_more_micro_batches_than_agreed() -> None:
    table = Table()
    table.heard(table.join(0))
    table.heard(table.step(0, FIRST, last=False))
    (out,) = table.say(0, _activation(Position(1, 0, 1), last=False))
    assert isinstance(out, HangUpOn)


def test_a_replayed_frame_ends_the_connection() -> None:
    table = Table()
    table.heard(table.join(0))
    frame = table.wires[0].outgoing(_activation(FIRST, last=False))
    table.session.handle(ReceivedFrom(0, frame))
    (out,) = table.session.handle(ReceivedFrom(0, frame))
    assert isinstance(out, HangUpOn) and "replayed or out of order" in out.reason


def test_nothing_is_taken_before_a_hello_nor_two_of_them() -> None:
    table = Table()
    table.session.handle(Joined(0))
    table.wires[0] = Wire(device_limits(BOUNDS))
    (out,) = table.say(0, _activation(FIRST, last=False))
    assert isinstance(out, HangUpOn) and "Activation, which is not expected" in out.reason
    table.heard(table.join(1))
    (out,) = table.say(1, Hello(0))
    assert isinstance(out, HangUpOn) and "Hello, which is not expected" in out.reason


def test_an_adapter_before_the_last_step_is_refused() -> None:
    table = Table()
    table.heard(table.join(0))
    (out,) = table.say(0, Adapter(1, Weight(1), b"row"))
    assert isinstance(out, HangUpOn) and "after 0 local steps" in out.reason


def test_a_spoilt_packet_ends_the_connection_and_counts_for_nothing() -> None:
    table = Table()
    table.heard(table.join(0))
    message = _activation(FIRST, last=False)
    table.say(0, message)
    assert table.session.handle(InvalidFrom(0, "NaN")) == [HangUpOn(0, "NaN")]
    table.heard(table.join(0, known=1))
    assert table.say(0, message) == [Train(0, message)]


def test_a_round_closes_when_all_adapters_are_there() -> None:
    table = Table()
    for device in range(2):
        table.heard(table.join(device))
    assert table.round(0, 1) == [AppendToJournal(0, Adapter(1, Weight(1), b"row"))]
    out = table.round(1, 1)
    assert [type(one) for one in out] == [AppendToJournal, AppendToJournal, Merge]
    assert out[-1] == Merge((0, 1))
    out = table.merged((0, 1), b"adapter 1", SHARES)
    assert {device for device, _ in table.heard(out)} == {0, 1}
    assert table.session.round == 2


def test_a_run_that_ends_early_tells_its_devices_as_one_that_ends() -> None:
    table = Table(devices=1)
    table.heard(table.join(0))
    table.round(0, 1)
    out = table.merged((0,), b"next", SHARES, ended=True)
    assert [message for _, message in table.heard(out)] == [Close(Ending(finished=True))]
    assert isinstance(out[-1], Finish) and table.session.finished
    # and so does a server that is started again
    again = ServerSession(table.plan, b"next", 2, ended=True)
    assert again.finished and again.handle(Tick(100.0)) == []


def test_a_deadline_waits_for_a_quorum() -> None:
    table = Table(devices=3, quorum=2)
    for device in range(2):
        table.heard(table.join(device))
    table.round(0, 1)
    assert [type(one) for one in table.session.handle(Tick(11.0))] == [Warn]
    out = table.round(1, 1)
    assert out[-1] == Merge((0, 1))


def test_time_that_goes_back_does_not_bring_the_deadline_nearer_or_farther() -> None:
    table = Table()
    table.heard(table.join(0))
    table.round(0, 1)
    assert table.session.handle(Tick(9.0)) == []
    assert table.session.handle(Tick(-1000.0)) == []
    assert table.session.handle(Tick(1.0))[-1] == Merge((0,))


def test_a_device_that_missed_a_round_begins_the_next_one_anew() -> None:
    table = Table()
    for device in range(2):
        table.heard(table.join(device))
    table.heard(table.step(1, FIRST, last=False))
    table.round(0, 1)
    table.session.handle(Tick(10.0))
    opened = dict(table.heard(table.merged((0,), b"adapter 1", SHARES)))
    for device, message in opened.items():
        assert isinstance(message, Open) and message.adapter == b"adapter 1"
        assert message.opening.fresh == (device == 1)
    # what was on its way when the round closed means nothing any more
    assert table.say(1, _activation(Position(1, 0, 1), last=True)) == []
    assert table.say(0, Adapter(1, Weight(1), b"row")) == []


@pytest.mark.parametrize("known", [0, 1])
def test_a_device_that_comes_back_after_its_round_closed_begins_anew(known: int) -> None:
    table = Table()
    table.heard(table.join(0))
    table.round(0, 1)
    table.session.handle(Tick(10.0))
    table.merged((0,), b"adapter 1", SHARES)
    out = table.join(1, known)
    assert [type(one) for one in out] == [SendTo, AppendToJournal, Renew]
    table.heard(out)
    ((_, opened),) = table.heard(table.session.handle(Renewed(1)))
    assert isinstance(opened, Open) and opened.opening.fresh


def test_a_device_that_lost_its_state_begins_its_round_again() -> None:
    table = Table()
    table.heard(table.join(0))
    table.heard(table.step(0, FIRST, last=False))
    out = table.join(0, known=0)
    assert [type(one) for one in out] == [SendTo, AppendToJournal, Renew]
    table.session.handle(Renewed(0))
    message = _activation(FIRST, last=False)
    assert table.say(0, message) == [Train(0, message)]


def _restart(table: Table) -> list[Instruction]:
    """A device comes back without its state."""
    out = table.join(0, known=0)
    table.heard(out)
    if any(isinstance(one, Renew) for one in out):
        table.heard(table.session.handle(Renewed(0)))
    return out


def test_a_device_that_loses_its_state_without_end_waits_for_the_next_round() -> None:
    """It would have the server train, and write to the journal, without bound."""
    table = Table()
    for device in range(2):
        table.heard(table.join(device))
    trained = 0
    while not any(isinstance(one, HangUpOn) for one in _restart(table)):
        table.heard(table.step(0, FIRST, last=False))
        trained += 1
        assert trained <= 9
    assert trained == 9  # 8 restarts, and what was before them
    assert table.say(0, _activation(FIRST, last=False)) == []
    (out,) = table.join(0, known=0)
    assert isinstance(out, HangUpOn) and "lost its state 8 times in round 1" in out.reason
    # who did not lose it goes on, and the next round is anybody's
    assert table.heard(table.join(0, known=1)) == [(0, Welcome(terms_of(0)))]
    table.round(1, 1)
    table.session.handle(Tick(10.0))
    table.heard(table.merged((1,), b"adapter 1", SHARES))
    assert [type(one) for one in table.join(0, known=0)] == [SendTo, AppendToJournal, Renew]


@pytest.mark.parametrize("known", [0, 1])
def test_what_is_void_is_not_voided_again(known: int) -> None:
    """Whoever knocks and leaves writes nothing; and the opening that it missed is a fresh one, also
    where its state is of the round before."""
    table = Table()
    for device in range(2):
        table.heard(table.join(device))
        table.round(device, 1)
    table.heard(table.merged((0, 1), b"adapter 1", SHARES))
    table.heard(table.step(0, Position(2, 0, 0), last=False))
    assert any(isinstance(one, AppendToJournal) for one in table.join(0, known))
    table.session.handle(Renewed(0))
    for _ in range(20):
        out = table.join(0, known)
        assert [type(one) for one in out] == [SendTo, SendTo]
        _, (_, opened) = table.heard(out)
        assert isinstance(opened, Open) and opened.opening.fresh


def test_at_the_end_everyone_is_told_and_late_comers_too() -> None:
    table = Table(devices=1)
    table.heard(table.join(0))
    for number in (1, 2):
        table.round(0, number)
        out = table.merged((0,), b"next", SHARES)
        said = table.heard(out)
    assert isinstance(said[-1][1], Close) and said[-1][1].ending.finished
    assert isinstance(out[-1], Finish)
    late = table.join(0, known=2)
    ((_, only),) = table.heard(late)
    assert isinstance(only, Close) and only.ending.finished
    assert isinstance(late[-1], HangUpOn)
    assert table.session.handle(Tick(100.0)) == []


def test_a_device_that_is_not_ready_asks_and_fetches() -> None:
    """It gets the terms and the file, and no round before it says hello."""
    table = Table()
    table.session.handle(Joined(0))
    table.wires[0] = Wire(device_limits(None))
    assert table.heard(table.say(0, Ask())) == [(0, Welcome(terms_of(0)))]
    assert table.say(0, Fetch(PartRange(7, 9))) == [Read(0, PartRange(7, 9))]
    piece = PartPiece(PartRange(7, 9), b"bytes")
    assert table.heard(table.session.handle(PieceRead(0, piece))) == [(0, piece)]
    assert table.session.traffic.of(1)["weights"] == 5
    (out,) = table.say(0, Adapter(1, Weight(1), b"row"))
    assert isinstance(out, HangUpOn)


def test_who_comes_after_the_end_hears_of_it() -> None:
    """Also who never was ready; then everyone has been told."""
    table = Table(devices=2, quorum=1)
    table.heard(table.join(0))
    for number in (1, 2):
        table.round(0, number)
        table.session.handle(Tick(10.0))
        table.heard(table.merged((0,), b"adapter", SHARES))
    assert table.session.untold == {1}
    table.session.handle(Joined(1))
    table.wires[1] = Wire(device_limits(None))
    assert table.heard(table.say(1, Ask())) == [(1, Close(Ending(finished=True)))]
    assert not table.session.untold


def test_how_far_devices_are() -> None:
    table = Table()
    table.join(0)
    table.step(0, Position(1, 0, 0), last=True)
    here, away = table.session.progress
    assert (here.connected, here.step, here.done) == (True, 1, False)
    assert away == DeviceProgress()


def test_a_round_short_of_its_quorum_says_so_once_and_closes_when_it_can() -> None:
    table = Table(quorum=2)
    table.heard(table.join(0))
    table.heard(table.join(1))
    table.round(0, 1)
    table.heard(table.step(1, Position(1, 0, 0), last=True))
    assert table.session.handle(Tick(9.0)) == []
    assert table.session.missing_adapters == 0
    (warning,) = table.session.handle(Tick(1.0))
    assert isinstance(warning, Warn)
    assert "round 1 has 1 of the 2 adapters that it needs, 10 s after it began" in warning.text
    assert "device 1 (connected, 1 of 2 local steps)" in warning.text
    assert "pi-0" not in warning.text
    assert table.session.missing_adapters == 1
    assert table.session.handle(Tick(1e6)) == []
    # the other one makes it after all
    table.heard(table.step(1, Position(1, 1, 0), last=True))
    adapter = Adapter(1, Weight(1), b"row")
    assert table.say(1, adapter) == [StoreAdapter(1, adapter)]
    assert table.session.handle(AdapterStored(1, adapter))[-1] == Merge((0, 1))
    table.merged((0, 1), b"adapter", SHARES)
    # the next round warns anew
    assert table.session.missing_adapters == 0
    assert [type(one) for one in table.session.handle(Tick(10.0))] == [Warn]


def test_a_run_whose_round_never_has_its_quorum_gives_up_when_told_to() -> None:
    """It names who is missing, and how to go on."""
    table = Table(quorum=2, give_up_s=100.0)
    table.heard(table.join(0))
    assert [type(one) for one in table.session.handle(Tick(99.0))] == [Warn]
    (end,) = table.session.handle(Tick(1.0))
    assert isinstance(end, GiveUp)
    assert "0 of the 2 adapters" in end.reason and "resume the run" in end.reason
    assert "pi-0 (connected, 0 of 2" in end.reason
    assert "device 1 (away, 0 of 2" in end.reason


def test_a_run_without_a_deadline_may_give_up_too() -> None:
    """Then it needs all; one that has its quorum by its deadline closes instead."""
    table = Table(quorum=1, deadline_s=None, give_up_s=100.0)
    table.heard(table.join(0))
    table.round(0, 1)
    assert table.session.handle(Tick(99.0)) == []
    (end,) = table.session.handle(Tick(1.0))
    assert isinstance(end, GiveUp) and "1 of the 2 adapters" in end.reason


@pytest.mark.parametrize("quorum", [0, 3])
def test_a_quorum_is_of_the_devices_there_are(quorum: int) -> None:
    with pytest.raises(ConfigError, match=f"net.quorum {quorum} for 2 devices"):
        Table(devices=2, quorum=quorum)


def test_nobody_gives_up_before_the_deadline() -> None:
    with pytest.raises(ConfigError, match=r"give_up_s 5\.0 is before net\.deadline_s 10\.0"):
        Table(give_up_s=5.0)
