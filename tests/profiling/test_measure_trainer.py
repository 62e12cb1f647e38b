"""One training: its bits are those of its packets, and what decides it is in its fingerprint."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from cutlayer.config.choices import FastCodec
from cutlayer.config.schema import Config, EvenPlanner
from cutlayer.profiling.grid import DEFAULT_CODEC, CodecSetting, DevicePartSetting
from cutlayer.profiling.measure import ProfileTrainer, WantedRun, fingerprint

PAPER = CodecSetting("paper", {"keep_ratio": 0.2, "levels": 7})


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A job of a second, whose own seed is 5."""
    root = tmp_path_factory.mktemp("job")
    job = tiny.config(tiny.vision_model(root / "model"), tiny.images(root / "images"))
    return job.model_copy(update={"seed": 5})


def test_one_training_gives_the_points_of_both_codecs(config: Config) -> None:
    trainer = ProfileTrainer(config)
    paper = trainer.train(WantedRun(PAPER, 5))
    plus = trainer.train(WantedRun(replace(PAPER, codec="paper-rans"), 5))
    assert paper.accuracy == plus.accuracy
    bits = (paper.same_symbols_bits_up, paper.same_symbols_bits_down)
    assert bits == (plus.bits_up, plus.bits_down)
    assert (plus.same_symbols_bits_up, plus.same_symbols_bits_down) == (None, None)
    assert (paper.codec, paper.settings, paper.rounds) == ("paper", PAPER.values, 2)
    assert not paper.diverged


def test_a_seed_is_the_same_whatever_was_trained_before(config: Config) -> None:
    """A resumed profile may begin with any of them."""
    one, other = ProfileTrainer(config), ProfileTrainer(config)
    wanted = [WantedRun(PAPER, seed) for seed in (5, 6)]
    forward = [replace(one.train(each), cpu_s=0.0) for each in wanted]
    backward = [replace(other.train(each), cpu_s=0.0) for each in reversed(wanted)]
    assert forward == backward[::-1]
    assert len({line.same_symbols_bits_up for line in forward}) == 2
    assert [each.key for each in wanted] == [line.key for line in forward]
    assert str(wanted[0]) == "paper, keep ratio 0.2, levels 7, seed 5"


def test_what_decides_a_training_is_in_its_fingerprint(config: Config) -> None:
    def changed(**sections: object) -> str:
        return fingerprint(config.model_copy(update=sections))

    job = fingerprint(config)
    assert job == changed(threads=3, codec=FastCodec())
    assert job == changed(planner=EvenPlanner(accuracy_loss=0.5))
    longer = config.training.model_copy(update={"rounds": 3})
    # the first seed's test samples are those of all
    assert len({job, changed(seed=6), changed(training=longer)}) == 3


def test_lines_of_other_samples_or_weights_are_another_jobs(tmp_path: Path) -> None:
    """At the same paths, with the same settings."""
    model, data = tiny.vision_model(tmp_path / "model"), tiny.images(tmp_path / "images")
    config = tiny.config(model, data)
    jobs = [ProfileTrainer(config).job, ProfileTrainer(config).job]
    train = bytearray((data / "train.bin").read_bytes())
    train[-1] ^= 1
    (data / "train.bin").write_bytes(train)
    jobs.append(ProfileTrainer(config).job)
    weights = load_file(model / "model.safetensors")
    halved = {name: value / 2 for name, value in weights.items()}
    save_file(halved, model / "model.safetensors", {"format": "pt"})
    jobs.append(ProfileTrainer(config).job)
    assert jobs[0] == jobs[1] and len(set(jobs)) == 3


def test_a_device_part_is_trained_as_its_own_job_is(config: Config) -> None:
    """Whatever was trained before, and on the same test samples at every cut."""
    settings = [
        DevicePartSetting(3, "trained"),
        DevicePartSetting(1, "warm", 1),
        DevicePartSetting(1, "frozen"),
    ]
    wanted = [WantedRun(DEFAULT_CODEC, 5, part) for part in settings]
    trainer = ProfileTrainer(config)
    lines = [replace(trainer.train(each), cpu_s=0.0) for each in wanted]
    assert [line.wanted for line in lines] == wanted
    assert [line.bits_down == 0.0 for line in lines] == [False, False, True]
    alone = replace(ProfileTrainer(config).train(wanted[-1]), cpu_s=0.0)
    assert alone == lines[-1]
    assert str(wanted[-1]).startswith("cut 1, device part frozen, best, target bits up 0.7")
