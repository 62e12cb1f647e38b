"""The file of a device's part: only its weights, the same bytes each time, fetched and checked."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors import safe_open

from cutlayer.data.batches import read_preprocessing
from cutlayer.errors import PacketError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.inputs import load_tokenizer
from cutlayer.model.load import device_tensors, load_device_part
from cutlayer.net.wire.messages import PIECE_BYTES, PartOffset, PartPiece, Terms
from cutlayer.net.wire.part_files import PartCache, PartFile, write_part
from cutlayer.spec import Task
from net.wire.test_messages import TERMS

CUT = 2
ADAPTER = AdapterSpec(rank=2, alpha=2.0)


def part_of(model: Path, task: Task, path: Path) -> PartFile:
    tensors = device_tensors(model, task, CUT, ADAPTER, classes=tiny.CLASSES)
    return write_part(path, model, tensors)


def terms_of(part: PartFile) -> Terms:
    return replace(TERMS, part_sha256=part.sha256, part_bytes=part.size_bytes)


def fetch(cache: PartCache, part: PartFile, most: int = 10**9) -> None:
    """Piece by piece, as far as `most` pieces go."""
    terms = terms_of(part)
    while most and (offset := cache.next_byte(terms)) is not None:
        cache.add(terms, PartPiece(PartOffset(offset), part.piece(offset)))
        most -= 1


@pytest.fixture(params=["vision", "bert", "llama"])
def model(request: pytest.FixtureRequest) -> tuple[Path, Task]:
    tasks: dict[str, Task] = {
        "vision": "image-classification",
        "bert": "text-classification",
        "llama": "causal-lm",
    }
    return request.getfixturevalue(request.param)[0], tasks[request.param]


def test_a_fetched_part_computes_as_the_models_own(
    model: tuple[Path, Task], tmp_path: Path
) -> None:
    """Every tensor and every starting value is equal; and the tokenizer or preprocessing is."""
    folder, task = model
    part = part_of(folder, task, tmp_path / "part")
    cache = PartCache(tmp_path / "cache")
    fetch(cache, part)
    fetched = cache.model(terms_of(part))
    own, whole = (
        load_device_part(path, task, CUT, ADAPTER, classes=tiny.CLASSES)
        for path in (fetched, folder)
    )
    pairs = list(zip(own.adapted.tensors, whole.adapted.tensors, strict=True))
    assert pairs and all(torch.equal(one, other) for one, other in pairs)
    assert torch.equal(own.adapted.initial_row(0), whole.adapted.initial_row(0))
    if task == "image-classification":
        assert read_preprocessing(fetched) == read_preprocessing(folder)
    else:
        texts = ["the film was good"]
        ids = [load_tokenizer(path, 8).tokenize(texts) for path in (fetched, folder)]
        assert ids[0] == ids[1]


def test_the_part_has_no_tensor_of_the_rest(vision: tuple[Path, Path], tmp_path: Path) -> None:
    part = part_of(vision[0], "image-classification", tmp_path / "part")
    with safe_open(part.path, framework="pt") as file:
        names: list[str] = list(file.keys())
    weights = {name for name in names if not name.startswith("file:")}
    blocks = {name.split("layer.")[1].split(".")[0] for name in weights if "layer." in name}
    assert blocks == {"0", "1"}
    outside = {name.split(".")[1] for name in weights if "layer." not in name}
    assert outside == {"embeddings"}


def test_equal_parts_are_equal_files(vision: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (
        part_of(vision[0], "image-classification", tmp_path / name) for name in ("one", "two")
    )
    assert first.sha256 == second.sha256
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.fixture
def large(tmp_path: Path, vision: tuple[Path, Path]) -> PartFile:
    """A file of three pieces."""
    values = torch.arange(2 * PIECE_BYTES // 4 + 100, dtype=torch.float32)
    return write_part(tmp_path / "large", vision[0], {"values": values})


def test_a_fetch_goes_on_where_it_was_cut(large: PartFile, tmp_path: Path) -> None:
    fetch(PartCache(tmp_path / "cache"), large, most=2)
    again = PartCache(tmp_path / "cache")
    assert again.next_byte(terms_of(large)) == 2 * PIECE_BYTES
    fetch(again, large)
    assert (again.model(terms_of(large)) / "model.safetensors").read_bytes() == (
        large.path.read_bytes()
    )
    assert again.next_byte(terms_of(large)) is None


def test_a_part_with_another_hash_is_fetched_anew(large: PartFile, tmp_path: Path) -> None:
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    fetch(cache, large, most=2)
    (partial,) = (tmp_path / "cache").iterdir()
    data = bytearray(partial.read_bytes())
    data[1000] ^= 1
    partial.write_bytes(data)
    with pytest.raises(PacketError, match="announced was"):
        fetch(cache, large)
    assert cache.next_byte(terms) == 0
    fetch(cache, large)
    assert cache.next_byte(terms) is None


@pytest.mark.parametrize(("more", "offset_needed"), [(b"", None), (b"x", 0)])
def test_a_part_that_was_never_unpacked(
    more: bytes, offset_needed: int | None, large: PartFile, tmp_path: Path
) -> None:
    """As a kill after the last piece leaves it: it is whole, or it is fetched anew."""
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    fetch(cache, large, most=2)
    (partial,) = (tmp_path / "cache").iterdir()
    partial.write_bytes(large.path.read_bytes() + more)
    assert cache.next_byte(terms) == offset_needed
    fetch(cache, large)
    assert cache.next_byte(terms) is None


def test_a_part_that_was_changed_on_disk_is_fetched_anew(large: PartFile, tmp_path: Path) -> None:
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    fetch(cache, large)
    with (cache.model(terms) / "model.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    assert cache.next_byte(terms) == 0


def test_devices_of_one_machine_fetch_a_part_side_by_side(large: PartFile, tmp_path: Path) -> None:
    """Neither takes the other's pieces for its own; whoever is first makes the part whole."""
    cache, one = PartCache(tmp_path / "cache"), terms_of(large)
    other = replace(one, device=one.device + 1)
    pieces = [
        PartPiece(PartOffset(offset), large.piece(offset))
        for offset in range(0, large.size_bytes, PIECE_BYTES)
    ]
    for piece in pieces[:-1]:
        for terms in (one, other):
            cache.add(terms, piece)
    cache.add(one, pieces[-1])
    assert cache.next_byte(other) is None
    cache.add(other, pieces[-1])
    assert cache.next_byte(one) is cache.next_byte(other) is None
    assert not list((tmp_path / "cache").glob("*.partial"))


@pytest.mark.parametrize("offset", [0, PIECE_BYTES - 1, PIECE_BYTES + 1, 10**12])
def test_a_piece_that_is_not_the_next_one(offset: int, large: PartFile, tmp_path: Path) -> None:
    cache = PartCache(tmp_path / "cache")
    fetch(cache, large, most=1)
    with pytest.raises(PacketError, match="not the next"):
        cache.add(terms_of(large), PartPiece(PartOffset(offset), b"x"))


def test_more_than_was_announced_is_refused(large: PartFile, tmp_path: Path) -> None:
    cache = PartCache(tmp_path / "cache")
    with pytest.raises(PacketError, match="not the next"):
        cache.add(replace(terms_of(large), part_bytes=3), PartPiece(PartOffset(0), b"four"))


@pytest.mark.parametrize("beyond", [0, 1, 2**62, 2**63, 2**70])
def test_no_piece_past_the_end(beyond: int, large: PartFile) -> None:
    """However far: no system can seek to the last three."""
    with pytest.raises(PacketError, match="past its end"):
        large.piece(large.size_bytes + beyond)
