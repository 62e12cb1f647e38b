"""A part as it is sent: its manifest, its codes, and what no server may put into either."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load, save
from torch import Tensor

from cutlayer.errors import PacketError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import device_tensors, load_device_part
from cutlayer.model.part_file import (
    Manifest,
    PartFile,
    PartTensor,
    code_part,
    content_of,
    decode_tensor,
    priced_bytes,
    read_manifest,
    sha256_of,
    with_files,
)
from cutlayer.model.placement import Placement
from cutlayer.spec import Base

ADAPTER = AdapterSpec(rank=2, alpha=2.0)


def coded(tensors: Mapping[str, Tensor]) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the code of each tensor."""
    whole = bytearray()
    manifest = code_part(tensors, whole.extend)
    codes, at = {}, 0
    for tensor in manifest.tensors:
        codes[tensor.name] = bytes(whole[at : at + tensor.coded_bytes])
        at += tensor.coded_bytes
    assert at == len(whole)
    return manifest, codes


def decoded(tensor: PartTensor, code: bytes) -> bytes:
    found = bytearray()
    decode_tensor(tensor, memoryview(code), found.extend)
    return bytes(found)


def some_tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(300, 1000, generator=draw) * 0.02
    return {
        "a": values,
        "b": values.bfloat16(),
        "c": torch.arange(7),
        "d": torch.zeros(0, 4),
        "e": torch.tensor(True),
        "f": (values * 1000).to(torch.int8),
        "g": values.half(),
    }


def test_every_kind_of_tensor_comes_back() -> None:
    tensors = some_tensors()
    manifest, codes = coded(tensors)
    assert read_manifest(manifest.to_bytes()) == manifest
    assert {tensor.name for tensor in manifest.tensors} == set(tensors)
    file = manifest.header()
    for tensor in manifest.tensors:
        data = decoded(tensor, codes[tensor.name])
        assert data == bytes(content_of(tensors[tensor.name]))
        assert tensor.sha256 == sha256_of(memoryview(data))
        file += data
    # what they make is a safetensors file, as the library writes it but for its order
    found = load(file)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert len(file) == len(save(tensors)) or len(file) - len(save(tensors)) < 64
    assert manifest.places()[0] == len(manifest.header())


@pytest.mark.parametrize("base", Base)
def test_a_part_in_any_base_is_priced_as_it_is_sent(base: Base, tmp_path: Path) -> None:
    """Adapters around its layers change no name; the same part is the same bytes."""
    folder, placement = tiny.vision_model(tmp_path / "model"), Placement(base=base)
    args = (folder, "image-classification", 2, ADAPTER)
    tensors = with_files(device_tensors(*args, classes=tiny.CLASSES, placement=placement), folder)
    path = tmp_path / "part"
    with path.open("wb") as file:
        manifest = code_part(tensors, file.write)
    part = PartFile(manifest.to_bytes(), path)
    own = load_device_part(*args, classes=tiny.CLASSES, placement=placement)
    assert priced_bytes(own.adapted.frozen(), folder) == part.size_bytes == manifest.sent_bytes
    assert coded(tensors)[0] == manifest
    names = {tensor.name for tensor in manifest.tensors}
    assert "file:config.json" in names and "file:preprocessor_config.json" in names


def test_what_is_tied_is_sent_once() -> None:
    values = torch.randn(400, 100)
    once = priced_bytes({"a": values}, None)
    assert priced_bytes({"a": values, "b": values}, None) == once
    assert priced_bytes({"a": values, "b": values.clone()}, None) > 1.5 * once


def test_pieces_of_a_part(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    path.write_bytes(bytes(range(100)))
    part = PartFile(b"manifest", path)
    whole = b"manifest" + bytes(range(100))
    assert part.size_bytes == 108
    for offset, size in ((0, 3), (0, 8), (5, 10), (8, 4), (100, 50)):
        assert part.piece(offset, size) == whole[offset : offset + size]
    for beyond in (0, 1, 2**62, 2**63, 2**70):
        with pytest.raises(PacketError, match="past its end"):
            part.piece(108 + beyond, 1)


def test_a_tensor_with_another_hash() -> None:
    manifest, codes = coded({"a": torch.arange(1000.0)})
    (tensor,) = manifest.tensors
    other = replace(tensor, sha256="0" * 64)
    with pytest.raises(PacketError, match="announced was"):
        decoded(other, codes["a"])
    for damaged in (codes["a"] + b"x", codes["a"][:-1]):
        with pytest.raises(PacketError):
            decoded(tensor, damaged)


def test_a_file_that_is_longer_than_announced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{" + " " * 10**6 + "}")
    manifest, codes = coded(with_files({}, tmp_path))
    (tensor,) = manifest.tensors
    assert tensor.coded_bytes < 1000
    found = bytearray()
    with pytest.raises(PacketError, match="announced was"):
        decode_tensor(replace(tensor, shape=[10]), memoryview(codes[tensor.name]), found.extend)
    assert len(found) < 20
    with pytest.raises(PacketError, match="damaged"):
        decoded(tensor, b"x" * tensor.coded_bytes)


LINE = {"name": "a", "dtype": "F32", "shape": [4], "sha256": "0" * 64, "coded_bytes": 8}


def line(**changes: object) -> list[dict[str, Any]]:
    return [{**LINE, **changes}]


@pytest.mark.parametrize(
    "lines",
    [
        line(dtype="F8"),
        line(shape=[-1]),
        line(shape=[2**53, 2**53], coded_bytes=10**9) + line(name="b", coded_bytes=2**60),
        line(coded_bytes=100),
        line(coded_bytes=0),
        line(sha256="0"),
        line(name=""),
        line(name="__metadata__"),
        line(more=1),
        line() + line(),
        line(name="b") + line(name="a"),
        line() + line(name="b", dtype="F64"),
        line(name="file:../../evil", dtype="U8"),
        line(name="file:evil", dtype="U8"),
        line(name="file:config.json"),
        line(name="file:config.json", dtype="U8", shape=[2**30], coded_bytes=2**20),
    ],
)
def test_a_hostile_manifest(lines: list[dict[str, Any]]) -> None:
    with pytest.raises(PacketError):
        read_manifest(json.dumps(lines).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'[{"name": "a"}]'])
def test_no_manifest_at_all(data: bytes) -> None:
    with pytest.raises(PacketError, match="which is none"):
        read_manifest(data)


def test_codes_are_made_a_little_at_a_time() -> None:
    """However large a tensor is."""
    lengths: list[int] = []
    code_part({"a": torch.randn(2**20)}, lambda code: lengths.append(len(code)))
    assert len(lengths) == 4 and max(lengths) < 4 * 2**18
