"""A configuration made into what a planner needs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cutlayer.channel.fading import SnrChannel
from cutlayer.codec.codec import EMPTY
from cutlayer.codec.presets import best, paper
from cutlayer.config.read import read_config
from cutlayer.config.schema import Config
from cutlayer.config.training import AdamWOptimizer, OptimizerSection, SgdOptimizer
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import optimizer_slots
from cutlayer.jobs.workload import expected_compression, make_workload
from cutlayer.planner.decision import device_need
from cutlayer.rounds.memory import PAPER_ACCOUNTING, PHYSICAL_ACCOUNTING
from cutlayer.rounds.schemes import FL_LORA, SFT, SFT_UNCOMPRESSED
from cutlayer.rounds.work import Sharing
from cutlayer.spec import MiniBatch, MiniBatchPolicy
from cutlayer.units import MIB


def configured(**overrides: str) -> Config:
    """The default job with some settings changed, `__` for the dot."""
    return read_config(None, {key.replace("__", "."): value for key, value in overrides.items()})


def test_the_built_in_job_is_a_workload() -> None:
    workload = make_workload(Config())
    assert (workload.model.name, workload.model.blocks, workload.model.rank) == (
        "dinov2-small",
        12,
        8,
    )
    assert workload.batch == MiniBatch(16, 17)  # 4 x 4 patches and the class token
    assert (workload.local_steps, workload.rounds) == ((10,) * 8, 5)
    assert {device.memory_bytes for device in workload.devices} == {72 * MIB}
    assert workload.server_flops_per_s == 3.072e12
    assert isinstance(workload.channel, SnrChannel)
    assert workload.accounting.name == PHYSICAL_ACCOUNTING.name
    assert workload.optimizer_slots == 2


def test_what_a_devices_codec_remembers_is_counted_where_anything_is_compressed() -> None:
    """The paper's equations have no such term."""
    workload, width = make_workload(Config()), 384
    known = best(packets=50).device_bytes(width)
    policy = MiniBatchPolicy()
    assert device_need(workload, SFT, 4, policy).codec == known > 4 * width**2
    for scheme in (SFT_UNCOMPRESSED, FL_LORA):
        assert device_need(workload, scheme, 4, policy).codec == 0
    published = make_workload(configured(cost__accounting="paper"))
    assert device_need(published, SFT, 4, policy).codec == 0


def test_settings_reach_it() -> None:
    workload = make_workload(
        configured(
            link__downlink="shared",
            cost__accounting="paper",
            training__batch_size="4",
            devices__preset="[jetson-nano, pixel-6]",
            server__preset="rtx-4090",
        )
    )
    assert workload.rules.downlink is Sharing.SHARED
    assert workload.accounting is PAPER_ACCOUNTING
    assert workload.batch.samples == 4
    assert [device.name for device in workload.devices] == ["jetson-nano-0", "pixel-6-1"]
    assert workload.server_flops_per_s == pytest.approx(82.6e12, abs=0.05e12)


@pytest.mark.parametrize(
    ("section", "slots"),
    [
        (AdamWOptimizer(), 2),
        (SgdOptimizer(), 1),
        (SgdOptimizer(momentum=0.0), 0),
    ],
)
def test_an_optimiser_keeps_values(section: OptimizerSection, slots: int) -> None:
    assert optimizer_slots(section) == slots


def test_epochs_are_of_samples_dealt_evenly() -> None:
    config = configured(
        training__local_epochs="2",
        training__batch_size="10",
        data__train_samples="82",
        devices__count="4",
    )
    # 21, 21, 20 and 20 samples: three mini-batches, or two
    assert make_workload(config).local_steps == (6, 6, 4, 4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training__local_steps": "null"}, "give training.local_steps or training.local_epochs"),
        (
            {"training__local_epochs": "1", "data__train_samples": "null"},
            r"local_epochs counts samples, and data\.train_samples null",
        ),
        (
            {"training__local_epochs": "1", "data__train_samples": "7"},
            r"data\.train_samples 7 are too few for 8 devices",
        ),
        ({"devices__uplink_snr_db": "[1, 2]"}, r"uplink_snr_db lists 2 values"),
    ],
)
def test_what_cannot_be_planned_is_told(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_workload(configured(**overrides))


def test_a_target_in_bits_is_what_is_expected() -> None:
    config = configured(codec__target_bits_up="0.8", codec__target_bits_down="0.2")
    found = expected_compression(config, make_workload(config))
    rows, columns = 16 * 17, 384
    # beside the target: frame, tables and scores, less than a byte a row and column
    most = (rows + columns) / (4 * rows * columns)
    assert 0.8 / 32 <= found.up <= 0.8 / 32 + most
    assert 0.2 / 32 <= found.down <= 0.2 / 32 + most


def test_without_a_codec_nothing_is_saved() -> None:
    config = configured(codec="none")
    found = expected_compression(config, make_workload(config))
    assert 1.0 <= found.up == found.down <= 1.0 + 100 / (4 * 16 * 17 * 384)


def test_what_is_expected_of_the_paper_s_codec_is_what_laplace_values_take() -> None:
    config = configured(
        codec__name="paper",
        codec__keep_ratio="0.2",
        codec__levels="7",
        training__batch_size="4",
    )
    workload = make_workload(config)
    found = expected_compression(config, workload)
    shape = (4, 17, 384)
    rng = np.random.default_rng(0)
    packet = paper(0.2, 7).up.encode(rng.laplace(size=shape).astype(np.float32), EMPTY, rng).packet
    # Golomb codes of 5,222 gaps: their sum varies by some per mille from draw to draw
    measured = len(packet) / (4 * 4 * 17 * 384)
    assert found.up == found.down == pytest.approx(measured, rel=0.01)


def test_codec_settings_that_exclude_each_other_are_told() -> None:
    config = configured(codec="stages", codec__up__quantise="dead-zone")
    with pytest.raises(ConfigError, match="dead-zone with 0 of step, target_bits"):
        expected_compression(config, make_workload(config))


def test_the_built_in_workload_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from cutlayer.config.schema import Config;"
        "from cutlayer.jobs.workload import expected_compression, make_workload;"
        "workload = make_workload(Config()); expected_compression(Config(), workload);"
        "print(sorted({'torch', 'transformers', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"CUTLAYER_CACHE": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"
