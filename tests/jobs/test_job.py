"""What can be wrong with a job is found in the order of what finding it costs."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, DataError
from cutlayer.jobs.network import check_net
from cutlayer.jobs.prepare import prepare


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"devices": {"count": 3, "uplink_snr_db": [1.0, 2.0]}}, r"devices\.uplink_snr_db lists 2"),
        ({"devices": {"count": 3, "memory_mib": [1.0]}}, r"devices\.memory_mib lists 1"),
        (
            {"planner": {"name": "fixed", "shares": [0.5, 0.5]}},
            r"planner\.shares lists 2 shares for devices\.count 8",
        ),
        ({"channel": {"name": "traces", "uplink": ["a", "b"]}}, r"channel\.uplink lists 2 files"),
        ({"training": {"micro_batches": 17}}, r"training\.micro_batches 17"),
    ],
)
def test_lists_and_numbers_come_before_the_model(sections: dict[str, Any], message: str) -> None:
    config = Config.model_validate({"model": "no-such-model", **sections})
    with pytest.raises(ConfigError, match=message):
        prepare(config)


@pytest.mark.parametrize("kind", ["vision", "bert", "llama"])
def test_a_server_needs_no_training_samples(kind: str, tmp_path: Path) -> None:
    """Fewer than devices, and none that could be read; its test split is checked once."""
    data = tmp_path / "data"
    if kind == "vision":
        model = tiny.vision_model(tmp_path / "model")
        for name in ("train/red/1", "train/green/1", "test/red/1", "test/green/1", "test/red/2"):
            path = data / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (28, 28)).save(path)
        (data / "train" / "red" / "1.png").write_bytes(b"no picture")
    elif kind == "bert":
        model = tiny.text_model(tmp_path / "model", "bert")
        tiny.reviews(data, 20)
        (data / "train.csv").write_text("text,label\n,neg\nfilm,pos\n", encoding="utf-8")
    else:
        model = tiny.text_model(tmp_path / "model", "llama")
        for split, text in (("train", " "), ("test", "film plot the film plot the " * 9)):
            (data / split).mkdir(parents=True)
            (data / split / "1.txt").write_text(text, encoding="utf-8")
    config = tiny.config(model, data)
    with pytest.raises(DataError):
        prepare(config)
    job = prepare(config, dealt=False)
    check_net(job)
    assert [device.samples for device in job.setup.devices] == [len(job.setup.server.test)] * 3
    assert job.setup.devices[0].train is job.setup.server.test
    assert job.prepared.skipped == 0
