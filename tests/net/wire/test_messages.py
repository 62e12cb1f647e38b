"""Messages: every kind comes back as it went, and settings are taken to the letter."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import FrameError
from cutlayer.net.wire.frames import (
    Frame,
    FrameSection,
    Kind,
    Wire,
    bounds_of,
    decode_message,
    device_limits,
    encode_message,
    journal_limits,
    server_limits,
    to_bytes,
)
from cutlayer.net.wire.messages import (
    Activation,
    Adapter,
    Ask,
    Close,
    DeviceTimes,
    Echo,
    Ending,
    Fetch,
    Gradient,
    Hello,
    MergedFrom,
    Message,
    Micro,
    Open,
    Opening,
    PartPiece,
    PartRange,
    Position,
    Probe,
    Refused,
    Restarted,
    RoundClosed,
    StepTimes,
    Terms,
    Weight,
    Welcome,
)
from cutlayer.spec import MiniBatch

BOUNDS = bounds_of(MiniBatch(4, 5), 6, 100, 4)
TERMS = Terms(
    run="run",
    device=1,
    task="causal-lm",
    classes=10,
    class_names=[],
    width=24,
    tokens=16,
    part_sha256="0f" * 32,
    manifest_bytes=100,
    uplink_bit_s=None,
    rounds=3,
    local_steps=2,
    micro_batches=1,
    settings={"seed": 7, "codec": {"name": "stages", "up": {"quantise": {"name": "int"}}}},
)
PLACE = Position(1, 2, 3)
UP: list[Message] = [
    Hello(3),
    Activation(PLACE, Micro(1 / 3, True), b"packet", b"labels", (5, 2**32 - 1)),
    Adapter(2, Weight(1), b"row"),
    Adapter(2, Weight(1), b"row", DeviceTimes(0.5, 1.0, 9.0, (StepTimes(1.5, 2.0, 3.0),))),
    Probe(),
    Ask(),
    Fetch(PartRange(2**40, 10)),
]
DOWN: list[Message] = [
    Welcome(TERMS),
    PartPiece(PartRange(7, 5), b"bytes"),
    Refused(),
    Echo(),
    Open(1, Opening(0.25, False), b"row"),
    Gradient(PLACE, b"packet"),
    Close(Ending(True)),
]
NOTED: list[Message] = [Restarted(4), RoundClosed(4, MergedFrom([0, 2]))]


@pytest.mark.parametrize("message", UP + DOWN + NOTED, ids=lambda m: type(m).__name__)
def test_round_trip(message: Message) -> None:
    limits = {**device_limits(BOUNDS), **journal_limits(BOUNDS)}
    assert decode_message(encode_message(message, 9), limits) == (message, 9)


@pytest.mark.parametrize("message", DOWN + NOTED, ids=lambda m: type(m).__name__)
def test_a_server_takes_only_what_devices_say(message: Message) -> None:
    with pytest.raises(FrameError, match="not expected here"):
        decode_message(encode_message(message, 0), server_limits(BOUNDS))


@pytest.mark.parametrize("message", DOWN, ids=lambda m: type(m).__name__)
def test_a_device_takes_no_tensors_before_it_knows_the_terms(message: Message) -> None:
    taken = isinstance(message, Welcome | PartPiece | Refused | Close)
    try:
        decode_message(encode_message(message, 0), device_limits(None))
    except FrameError:
        assert not taken
    else:
        assert taken


def _welcome(settings: bytes) -> bytes:
    return to_bytes(Frame(Kind.WELCOME, Position(), 0, {FrameSection.SETTINGS: settings}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": "2"}, "rounds"),
        ({"rounds": 2.0}, "rounds"),
        ({"rounds": True}, "rounds"),
        ({"settings": 7}, "settings"),
        ({"task": "segmentation"}, "task"),
        ({"part_sha256": "0F" * 32}, "part_sha256"),
        ({"extra": 1}, "extra"),
        ({"run": "../run"}, "run"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change: dict[str, object], message: str) -> None:
    data = json.dumps({**asdict(TERMS), **change}).encode()
    with pytest.raises(FrameError, match=f"settings of Terms: {message}"):
        decode_message(_welcome(data), device_limits(None))


def test_a_key_of_any_length_makes_a_short_message() -> None:
    data = json.dumps({**asdict(TERMS), "x" * 60_000: 1}).encode()
    with pytest.raises(FrameError, match="settings of Terms: xxx") as caught:
        decode_message(_welcome(data), device_limits(None))
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=300))
def test_settings_of_any_bytes_raise_one_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_message(_welcome(data), device_limits(None))


@pytest.mark.parametrize(
    "data", [b"[" * 60_000, b'{"a":' * 10_000, b"1" * 60_000, b'"' + b"\\u0000" * 10_000 + b'"']
)
def test_hostile_json_raises_one_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_message(_welcome(data), device_limits(None))


@pytest.mark.parametrize("offset", [-1, 2**53 + 1, 2**63 - 1, 2**70])
def test_an_offset_is_one_of_a_file(offset: int) -> None:
    sections = {FrameSection.SETTINGS: b'{"offset":%d}' % offset}
    with pytest.raises(FrameError, match="settings of PartRange"):
        decode_message(to_bytes(Frame(Kind.FETCH, Position(), 0, sections)), server_limits(BOUNDS))


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999", b"-0.1", b"1.1"])
def test_a_weight_is_a_part(number: bytes) -> None:
    sections = {
        FrameSection.SETTINGS: b'{"weight":' + number + b',"last":true}',
        FrameSection.ACTIVATION: b"",
        FrameSection.LABELS: b"",
        FrameSection.SAMPLES: b"",
    }
    data = to_bytes(Frame(Kind.ACTIVATION, PLACE, 0, sections))
    with pytest.raises(FrameError, match="settings of Micro"):
        decode_message(data, server_limits(BOUNDS))


def test_a_wire_takes_each_frame_once_and_in_order() -> None:
    sender, receiver = Wire(device_limits(BOUNDS)), Wire(server_limits(BOUNDS))
    first, second, third = (sender.outgoing(Hello(number)) for number in range(3))
    assert receiver.incoming(first) == Hello(0)
    for wrong in (first, third):
        with pytest.raises(FrameError, match="where 1 is next: replayed or out of order"):
            receiver.incoming(wrong)
    assert receiver.incoming(second) == Hello(1)


def test_numbers_of_samples_are_whole() -> None:
    activation = UP[1]
    assert isinstance(activation, Activation)
    whole = encode_message(replace(activation, samples=(1,)), 0)
    assert decode_message(whole, server_limits(BOUNDS))[0] == replace(activation, samples=(1,))
    sections = {
        FrameSection.SETTINGS: b'{"weight":1.0,"last":true}',
        FrameSection.ACTIVATION: b"",
        FrameSection.LABELS: b"",
        FrameSection.SAMPLES: b"abc",
    }
    with pytest.raises(FrameError, match="numbers of samples in 3 bytes"):
        decode_message(to_bytes(Frame(Kind.ACTIVATION, PLACE, 0, sections)), server_limits(BOUNDS))
