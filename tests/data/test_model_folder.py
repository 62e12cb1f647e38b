"""What is wrong with a folder that is no model: each cause has a message and a way on."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cutlayer.data.hub import holds_model, model_fault

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def model(folder: Path, kind: str = "float32", **settings: object) -> Path:
    """A folder with a configuration and one tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"a.weight": np.zeros(4, kind)}, folder / "model.safetensors")
    return folder


def test_a_whole_model(tmp_path: Path) -> None:
    for kind in ("float32", "float16", "float64"):
        assert holds_model(model(tmp_path, kind))


def test_a_model_folder_needs_all_its_shards(tmp_path: Path) -> None:
    whole = model(tmp_path) / "model.safetensors"
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    listing = tmp_path / "model.safetensors.index.json"
    listing.write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    (tmp_path / shards[0]).write_bytes(whole.read_bytes())
    whole.rename(tmp_path / shards[1])
    assert holds_model(tmp_path)
    (tmp_path / shards[1]).unlink()
    assert str(model_fault(tmp_path)).startswith(
        f"1 of 2 files of weights are missing, {shards[1]}"
    )
    (tmp_path / shards[0]).write_text(POINTER)
    (tmp_path / shards[1]).write_text(POINTER)
    assert f"{shards[0]} is a pointer of Git LFS" in str(model_fault(tmp_path))
    listing.write_text("{}")
    assert "names no file" in str(model_fault(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER.encode(), "a pointer of Git LFS, not the weights: run git lfs pull"),
        (b"", "damaged or cut off, at 0 bytes"),
        (b"<!doctype html>", "damaged or cut off, at 15 bytes"),
    ],
)
def test_a_file_that_is_not_the_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (model(tmp_path) / "model.safetensors").write_bytes(content)
    assert f"model.safetensors is {message}" in str(model_fault(tmp_path))


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = model(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged or cut off" in str(model_fault(tmp_path))


def test_weights_of_other_formats(tmp_path: Path) -> None:
    (model(tmp_path) / "model.safetensors").unlink()
    assert "model.safetensors is missing" in str(model_fault(tmp_path))
    (tmp_path / "pytorch_model.bin").touch()
    assert "only pytorch_model.bin: load it with transformers and save" in str(
        model_fault(tmp_path)
    )


def test_quantised_weights(tmp_path: Path) -> None:
    assert "a.weight as I8, and training takes float" in str(model_fault(model(tmp_path, "int8")))
    named = model(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised (gptq, by quantization_config" in str(model_fault(named))


def test_an_adapter_alone_or_beside_the_weights(tmp_path: Path) -> None:
    settings = json.dumps({"base_model_name_or_path": "owner/base"})
    (model(tmp_path / "both") / "adapter_config.json").write_text(settings)
    assert "adapter_config.json is in the folder of the model's weights" in str(
        model_fault(tmp_path / "both")
    )
    (model(tmp_path / "weights") / "adapter_model.safetensors").write_bytes(b"")
    assert "adapter_model.safetensors is in the folder of" in str(model_fault(tmp_path / "weights"))
    (tmp_path / "adapter_config.json").write_text(settings)
    assert "it holds an adapter alone (of owner/base): name that model" in str(
        model_fault(tmp_path)
    )


def test_the_folder_that_was_meant_is_named(tmp_path: Path) -> None:
    root = tmp_path / "models--owner--name"
    snapshot = model(root / "snapshots" / "abc")
    assert model_fault(root) == f"it is the root of a Hugging Face cache: name {snapshot}"
    inner = model(tmp_path / "run" / "checkpoint-10")
    assert model_fault(tmp_path / "run") == f"it has no config.json, {inner} does: name that"
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").touch()
    assert "it holds GGUF files" in str(model_fault(tmp_path / "gguf"))
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in str(model_fault(tmp_path / "empty"))
