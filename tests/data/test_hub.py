import socket
import time
from pathlib import Path

import pytest

from cutlayer.data.hub import HuggingFaceHub, answers, holds_model, is_hub_id
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
        start = time.monotonic()
        with pytest.raises(AssetError, match="no answer"):
            HuggingFaceHub(address, tmp_path, tmp_path, patience_s=0.3).data("owner/set")
        assert time.monotonic() - start < 5


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
