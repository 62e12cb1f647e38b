"""The Hugging Face hub, and what a folder must have to be a model."""

import contextlib
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cutlayer.data.find import HuggingFaceHub, answers, holds_model, is_hub_id, model_fault
from cutlayer.errors import AssetError
from data.hub_server import serve

# a file of weights that has none
EMPTY = b"\x02\0\0\0\0\0\0\0{}"
FILES = {
    "config.json": b"{}",
    "model.safetensors": EMPTY,
    "tokenizer.json": b'{"a": 1}',
    "pytorch_model.bin": b"a pickle, never wanted",
    "onnx/model.onnx": b"not wanted either",
}


def silent_server() -> socket.socket:
    """A socket that takes calls and never answers."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


def test_a_model_is_downloaded_without_pickles_and_then_found_without_network(
    tmp_path: Path,
) -> None:
    with serve("owner/tiny", FILES) as (address, asked):
        hub = HuggingFaceHub(endpoint=address, models=tmp_path)
        folder = hub.model("owner/tiny")
        assert sorted(asked) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert (folder / "model.safetensors").read_bytes() == EMPTY
    assert hub.model("owner/tiny") == folder


def test_a_configuration_is_had_without_its_weights(tmp_path: Path) -> None:
    with serve("owner/tiny", FILES) as (address, asked):
        hub = HuggingFaceHub(address, tmp_path)
        folder = hub.config("owner/tiny")
        assert (asked, (folder / "config.json").read_bytes()) == (["config.json"], b"{}")
    assert hub.config("owner/tiny") == folder  # from then on without network
    with serve("owner/tiny", FILES) as (address, asked):
        assert holds_model(HuggingFaceHub(address, tmp_path).model("owner/tiny"))
        assert "model.safetensors" in asked


def test_a_repository_without_configuration_is_told(tmp_path: Path) -> None:
    with (
        serve("owner/data", {"README.md": b"-"}) as (address, _),
        pytest.raises(AssetError, match=r"has no config\.json"),
    ):
        HuggingFaceHub(address, tmp_path).config("owner/data")


def test_an_incomplete_copy_is_completed(tmp_path: Path) -> None:
    with serve("owner/tiny", FILES) as (address, _):
        hub = HuggingFaceHub(address, tmp_path)
        weights = hub.model("owner/tiny") / "model.safetensors"
        weights.resolve().unlink()  # as if the download had been cut short
        weights.unlink()
        assert holds_model(hub.model("owner/tiny"))


def test_a_repository_without_safetensors_is_told(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with (
        serve("owner/old", files) as (address, _),
        pytest.raises(AssetError, match="no model with safetensors"),
    ):
        HuggingFaceHub(address, tmp_path).model("owner/old")


def test_a_copy_that_cannot_be_completed_is_told(tmp_path: Path) -> None:
    with serve("owner/tiny", FILES) as (address, _):
        weights = HuggingFaceHub(address, tmp_path).model("owner/tiny") / "model.safetensors"
    weights.resolve().write_bytes(b"half")
    with pytest.raises(
        AssetError, match=r"no answer .*; the copy here: model\.safetensors is damaged"
    ):
        HuggingFaceHub("http://127.0.0.1:9", tmp_path).model("owner/tiny")


def test_an_unknown_model_is_told(tmp_path: Path) -> None:
    with serve("owner/tiny", FILES) as (address, _), pytest.raises(AssetError, match="404"):
        HuggingFaceHub(address, tmp_path).model("owner/other")


def test_a_hub_that_is_away_is_given_up_at_once(tmp_path: Path) -> None:
    hub = HuggingFaceHub("http://127.0.0.1:9", tmp_path)
    with pytest.raises(AssetError, match=r"no answer from http://127\.0\.0\.1:9"):
        hub.model("owner/tiny")


def test_a_hub_that_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    with silent_server() as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(AssetError, match="no answer"):
            HuggingFaceHub(address, tmp_path, tmp_path, patience_s=0.3).data("owner/set")
        server.settimeout(60.0)
        with contextlib.closing(server.accept()[0]):
            server.setblocking(False)
            with pytest.raises(BlockingIOError):  # it was asked once, and nobody tried again
                server.accept()


def test_offline_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with (
        serve("owner/tiny", FILES) as (address, asked),
        pytest.raises(AssetError, match="HF_HUB_OFFLINE"),
    ):
        HuggingFaceHub(address, tmp_path).model("owner/tiny")
    assert asked == []


def test_a_refusal_is_an_answer_and_nonsense_is_none() -> None:
    with serve("owner/tiny", {}) as (address, _):
        assert answers(f"{address}/nowhere", 3.0)
    assert not answers("no address", 3.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", True),
        ("owner/name-1.5_x", True),
        ("./folder", False),
        ("/abs/path", False),
        ("a/b/c", False),
        ("~/x", False),
        ("with space", False),
        ("", False),
    ],
)
def test_hub_ids_are_told_from_paths(name: str, expected: bool) -> None:
    assert is_hub_id(name) == expected


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
