"""Codecs in training: streams that remember, in checkpoints too."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from codec.ends import correlated

from cutlayer.codec.codec import EMPTY, Direction, Stream
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.memories import Delta, ErrorFeedback
from cutlayer.codec.pipeline import LearnedBasis
from cutlayer.codec.presets import best
from cutlayer.codec.quantisers import RelativeStep, TargetBits, TargetCosine
from cutlayer.codec.raw import RawCodec
from cutlayer.codec.staged import StagedCodec
from cutlayer.config.choices import BestCodec, CodecSection, NoCodec, StagesCodec
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import make_codecs
from cutlayer.jobs.prepare import prepare
from cutlayer.training.exchange import streams_from_tensors, streams_to_tensors
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.torch_codec import on_device

Folders = tuple[Path, Path]
REMEMBERING = {
    "name": "stages",
    "up": {
        "centre": True,
        "transform": "basis",
        "quantise": {"name": "dead-zone", "target_bits": 2.0},
    },
    "down": {"quantise": {"name": "int", "bits": 4}, "memory": "delta"},
}
LONG = {"rounds": 4, "local_steps": 2, "batch_size": 4}


@pytest.mark.parametrize(
    ("folders", "codec"),
    [("vision", REMEMBERING), ("bert", REMEMBERING), ("vision", "best"), ("llama", "best")],
)
def test_a_checkpoint_holds_all_that_a_codec_remembers(
    folders: str, codec: object, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The round after a checkpoint is the round after the state itself, to the last bit."""
    folder = request.getfixturevalue(folders)
    setup = prepare(tiny.config(*folder, codec=codec, training=LONG)).setup
    if folders == "llama":
        setup = tiny.with_batches(setup, tiny.Masked)
    state = initial_state(setup)
    for _ in range(3):
        state = Round(setup, state).play().state
    directory = RunDirectory.create(tmp_path, "run")
    directory.save(state)
    loaded = directory.load()
    assert loaded is not None
    straight, resumed = (Round(setup, start).play() for start in (state, loaded))
    assert torch.equal(straight.state.device.row, resumed.state.device.row)
    assert torch.equal(straight.state.server.row, resumed.state.server.row)
    assert straight.round_costs.byte_counts() == resumed.round_costs.byte_counts()


def test_what_is_remembered_on_a_device_goes_through_a_checkpoint() -> None:
    codec = on_device(best().up, torch.device("cpu"))
    tensor = torch.from_numpy(correlated((4, 17, 32), mean=1.0))
    state = codec.encode(tensor, EMPTY, np.random.default_rng(0)).state
    assert isinstance(state["mean"], torch.Tensor)
    streams = {(3, Direction.UP): Stream(state, EMPTY)}
    loaded = streams_from_tensors(streams_to_tensors(streams))[3, Direction.UP].sender
    assert set(loaded) == set(state)
    for name, array in state.items():
        assert isinstance(loaded[name], np.ndarray)
        np.testing.assert_array_equal(loaded[name], np.asarray(array))


def test_every_device_has_a_stream_each_way(vision: Folders) -> None:
    setup = prepare(tiny.config(*vision, codec=REMEMBERING, training=LONG)).setup
    state = initial_state(setup)
    assert not state.streams
    for _ in range(2):
        state = Round(setup, state).play().state
    assert set(state.streams) == {(n, way) for n in range(3) for way in Direction}
    for device in range(3):
        up = state.streams[device, Direction.UP]
        # a mean from the first packet on, the same at both ends; the sender alone has statistics
        assert torch.equal(*(torch.from_numpy(end["mean"]) for end in (up.sender, up.receiver)))
        assert "statistics.total" in up.sender
        assert "statistics.total" not in up.receiver
        down = state.streams[device, Direction.DOWN]
        assert any(name.startswith("sample.") for name in down.receiver)


def test_a_codec_of_fewer_bits_sends_fewer_bytes(vision: Folders) -> None:
    sizes = []
    for codec in ("none", "fast", "paper-rans", "best"):
        setup = prepare(tiny.config(*vision, codec=codec)).setup
        outcome = Round(setup, initial_state(setup)).play()
        sizes.append(outcome.round_costs.bytes_by_payload()["activation"])
    # tiny tensors: `best` ships a mean and is not at its best, so it is only held against none
    assert sizes[1] < sizes[0] / 4
    assert sizes[2] < sizes[0] / 2
    assert sizes[3] < sizes[0] / 4


def _section(codec: object) -> CodecSection:
    return Config.model_validate({"codec": codec}).codec


def test_a_section_becomes_the_codec_that_it_describes() -> None:
    section = _section(
        {
            "name": "stages",
            "up": {
                "transform": {"name": "basis", "share": 0.25},
                "quantise": {"name": "dead-zone", "rounding": 0.2, "step": 0.5},
            },
            "down": {"sparsify": "token", "memory": "error-feedback"},
        }
    )
    codecs = make_codecs(section, packets=40)
    assert isinstance(section, StagesCodec) and isinstance(codecs.up, StagedCodec)
    assert codecs.up.transform == LearnedBasis(0.25, packets=40)
    assert codecs.up.quantiser == DeadZone(RelativeStep(0.5), 0.2)
    assert isinstance(codecs.down, ErrorFeedback)
    delta = section.model_copy(update={"down": section.up.model_copy(update={"memory": "delta"})})
    assert isinstance(make_codecs(delta, packets=40).down, Delta)
    assert isinstance(make_codecs(NoCodec(), packets=1).up, RawCodec)


def test_best_follows_the_goal_that_is_given() -> None:
    section = BestCodec(target_bits_up=0.9, target_cosine_down=0.8)
    codecs = make_codecs(section, packets=40)
    assert isinstance(codecs.up, StagedCodec) and isinstance(codecs.down, StagedCodec)
    assert codecs.up.quantiser == DeadZone(TargetBits(0.9), keeps_energy=True)
    assert codecs.down.quantiser == DeadZone(TargetCosine(0.8))


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ({"name": "stages", "up": {"quantise": "dead-zone"}}, "with 0 of step, target_bits"),
        (
            {
                "name": "stages",
                "up": {"quantise": {"name": "dead-zone", "step": 1.0, "target_bits": 1.0}},
            },
            "with 2 of step, target_bits",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(codec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_codecs(_section(codec), packets=10)
