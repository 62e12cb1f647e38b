"""The script that makes a model for `llama-0.7b.yaml`."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part

SCRIPT = Path(__file__).parents[2] / "examples" / "make_random_model.py"


def test_it_makes_a_model_in_shards_that_can_be_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    sizes = ["--width", "128", "--blocks", "3", "--vocabulary", "4096", "--shard-mib", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder), *sizes])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "parameters" in capsys.readouterr().out
    assert len(list(folder.glob("*.safetensors"))) > 1
    ids = AutoTokenizer.from_pretrained(folder)("Añ")["input_ids"]
    assert len(ids) == 3 and 0 < min(ids) <= max(ids) <= 256  # bytes
    spec = AdapterSpec(2, 2.0)
    device = load_device_part(folder, "causal-lm", 1, spec, classes=0)
    server = load_server_part(folder, "causal-lm", 1, spec, classes=0)
    rows = [part.adapted.initial_row(0)[None] for part in (device, server)]
    activation = device.forward(rows[0], [1], {"input_ids": torch.tensor([ids])})
    logits = server.forward(rows[1], [1], activation, None)
    assert logits.shape == (1, 3, 4096) and logits.isfinite().all()
