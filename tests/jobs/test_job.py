"""What can be wrong with a job is found in the order of what finding it costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image
from transformers import BloomConfig, BloomForCausalLM

from cutlayer.config.schema import Config, DataSection
from cutlayer.errors import ConfigError, DataError, UnsupportedModelError
from cutlayer.jobs.network import check_net
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.training.evaluation import evaluate
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round


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


def test_packed_documents_have_the_losses_of_documents_one_a_row(tmp_path: Path) -> None:
    model = tiny.text_model(tmp_path / "model", "llama")
    config = tiny.config(model, short_texts(tmp_path / "texts.jsonl"))

    def job_of(packing: str) -> Job:
        return prepare(config.model_copy(update={"data": packed(config, packing)}))

    jobs = [job_of("none"), job_of("documents")]
    setups = [job.setup for job in jobs]
    apart, together = (evaluate(own.training, own.server, initial_state(own)) for own in setups)
    assert len(setups[1].server.test) < len(setups[0].server.test)
    assert together.loss == pytest.approx(apart.loss, abs=1e-5)
    outcome = Round(setups[1], initial_state(setups[1])).play()
    assert evaluate(setups[1].training, setups[1].server, outcome.state).loss < together.loss


def test_a_model_in_whose_rows_documents_would_see_each_other_takes_none(tmp_path: Path) -> None:
    model = tiny.text_model(tmp_path / "model", "llama")
    sizes = {"vocab_size": 14, "hidden_size": 24, "n_layer": 4, "n_head": 2, "pad_token_id": 0}
    BloomForCausalLM(BloomConfig(**sizes)).save_pretrained(model)
    config = tiny.config(model, short_texts(tmp_path / "texts.jsonl"))
    prepare(config.model_copy(update={"data": packed(config, "none")}))
    with pytest.raises(UnsupportedModelError, match="'bloom' cannot train on packed rows"):
        prepare(config.model_copy(update={"data": packed(config, "documents")}))


def short_texts(path: Path) -> Path:
    """Documents of one to eight words."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(tiny.WORDS, rng.integers(1, 9))) for _ in range(80)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def packed(config: Config, packing: str) -> DataSection:
    return config.data.model_copy(update={"packing": packing, "task": "causal-lm"})
