"""The file of a device's part: only its weights, fetched and checked tensor by tensor, once."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from cutlayer.data.batches import read_preprocessing
from cutlayer.errors import ModelError, PacketError, RunError, StorageError
from cutlayer.model.described import AdapterSpec
from cutlayer.model.inputs import load_tokenizer
from cutlayer.model.load import device_tensors, load_device_part
from cutlayer.model.part_file import PartFile, read_manifest, with_files
from cutlayer.model.placement import Placement
from cutlayer.net.wire.messages import PIECE_BYTES, PartPiece, PartRange, Terms
from cutlayer.net.wire.part_files import PartCache, write_part
from cutlayer.spec import Base, Task
from net.wire.test_messages import TERMS

CUT = 2
ADAPTER = AdapterSpec(rank=2, alpha=2.0)


def tensors_of(
    model: Path, task: Task, cut: int = CUT, base: Base = Base.FLOAT32
) -> dict[str, Tensor]:
    placement = Placement(base=base)
    return device_tensors(model, task, cut, ADAPTER, classes=tiny.CLASSES, placement=placement)


def terms_of(part: PartFile) -> Terms:
    return replace(TERMS, part_sha256=part.sha256, manifest_bytes=len(part.manifest))


@dataclass
class Fetched:
    """What a device asked for, and how many bytes came."""

    places: list[PartRange] = field(default_factory=list)
    bytes: int = 0


def fetch(
    cache: PartCache, part: PartFile, most: int = 10**9, terms: Terms | None = None
) -> Fetched:
    """Piece by piece, as far as `most` pieces go."""
    terms, fetched = terms or terms_of(part), Fetched()
    while most and (place := cache.needed(terms)) is not None:
        data = part.piece(place.offset, place.size)
        cache.add(terms, PartPiece(place, data))
        fetched.places.append(place)
        fetched.bytes += len(data)
        most -= 1
    return fetched


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
    part = write_part(tmp_path / "part", folder, tensors_of(folder, task))
    cache = PartCache(tmp_path / "cache")
    assert fetch(cache, part).bytes == part.size_bytes
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


@pytest.mark.parametrize("base", [Base.BFLOAT16, Base.INT8, Base.NF4])
def test_a_part_in_other_numbers(base: Base, vision: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = tensors_of(vision[0], "image-classification", base=base)
    part = write_part(tmp_path / "part", vision[0], tensors)
    cache = PartCache(tmp_path / "cache")
    fetch(cache, part)
    found = load_file(cache.model(terms_of(part)) / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_the_part_has_no_tensor_of_the_rest(vision: tuple[Path, Path], tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", vision[0], tensors_of(vision[0], "image-classification"))
    names = [tensor.name for tensor in read_manifest(part.manifest).tensors]
    weights = {name for name in names if not name.startswith("file:")}
    blocks = {name.split("layer.")[1].split(".")[0] for name in weights if "layer." in name}
    assert blocks == {"0", "1"}
    outside = {name.split(".")[1] for name in weights if "layer." not in name}
    assert outside == {"embeddings"}


def test_equal_parts_are_equal_files(vision: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (
        write_part(tmp_path / name, vision[0], tensors_of(vision[0], "image-classification"))
        for name in ("one", "two")
    )
    assert first.sha256 == second.sha256
    assert first.path.read_bytes() == second.path.read_bytes()


def values_of(seed: int, count: int = 2 * PIECE_BYTES // 4) -> Tensor:
    """Half of it are random bits, which no code makes smaller."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31 - 1, (count,), generator=draw, dtype=torch.int64).int()


@pytest.fixture
def large(tmp_path: Path, vision: tuple[Path, Path]) -> PartFile:
    """Of some pieces: a large tensor between small ones."""
    tensors = {"a": values_of(1, 10), "large": values_of(2), "z": values_of(3, 1000)}
    return write_part(tmp_path / "large", vision[0], tensors)


def content(cache: PartCache, part: PartFile) -> dict[str, Tensor]:
    return load_file(cache.model(terms_of(part)) / "model.safetensors")


@pytest.mark.parametrize("pieces", range(1, 5))
def test_a_fetch_goes_on_where_it_was_cut(pieces: int, large: PartFile, tmp_path: Path) -> None:
    """After any piece, the process killed or not: no byte comes twice."""
    before = fetch(PartCache(tmp_path / "cache"), large, most=pieces)
    assert len(before.places) == pieces
    again = PartCache(tmp_path / "cache")
    after = fetch(again, large)
    assert before.bytes + after.bytes == large.size_bytes
    assert torch.equal(content(again, large)["large"], values_of(2))
    assert again.needed(terms_of(large)) is None
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_piece_may_end_at_any_byte(large: PartFile, tmp_path: Path) -> None:
    """As if each link broke within: whatever came counts, and what comes next begins there."""
    cache, terms, at = PartCache(tmp_path / "cache"), terms_of(large), 0
    sizes = [1, 7, 1000, 65_537, 299_993]
    for step in range(10**6):
        place = cache.needed(terms)
        if place is None:
            break
        assert place.offset == at
        size = min(place.size, sizes[step % len(sizes)])
        cache.add(terms, PartPiece(place, large.piece(at, size)))
        at += size
        if step % 3 == 0:
            cache = PartCache(tmp_path / "cache")
    assert at == large.size_bytes
    assert torch.equal(content(cache, large)["z"], values_of(3, 1000))


def test_small_tensors_share_a_piece(vision: tuple[Path, Path], tmp_path: Path) -> None:
    """A round trip for the manifest, one for all the rest."""
    tensors = {f"t{n}": values_of(n, 50) for n in range(40)}
    part = write_part(tmp_path / "part", vision[0], tensors)
    assert len(fetch(PartCache(tmp_path / "cache"), part).places) == 2


# --- what is here already


def test_a_changed_cut_fetches_the_difference(vision: tuple[Path, Path], tmp_path: Path) -> None:
    cache = PartCache(tmp_path / "cache")
    parts = {
        cut: write_part(
            tmp_path / f"part-{cut}",
            vision[0],
            tensors_of(vision[0], "image-classification", cut),
        )
        for cut in (1, 2, 3)
    }
    fetch(cache, parts[2])
    manifests = {cut: read_manifest(part.manifest) for cut, part in parts.items()}
    known = {tensor.sha256 for tensor in manifests[2].tensors}
    more = sum(each.coded_bytes for each in manifests[3].tensors if each.sha256 not in known)
    assert more > 1000
    # a manifest each, and the third block
    assert fetch(cache, parts[3]).bytes == len(parts[3].manifest) + more
    assert fetch(cache, parts[1]).bytes == len(parts[1].manifest)
    for cut in parts:
        own = tensors_of(vision[0], "image-classification", cut)
        found = content(cache, parts[cut])
        assert all(torch.equal(found[name], value) for name, value in own.items())


@pytest.mark.parametrize("base", Base)
def test_a_model_that_is_here_is_not_fetched(
    base: Base, vision: tuple[Path, Path], tmp_path: Path
) -> None:
    """Whatever numbers the run holds it in: they come out the same here."""
    folder, task = vision[0], "image-classification"
    part = write_part(tmp_path / "part", folder, tensors_of(folder, task, base=base))
    own = with_files(tensors_of(folder, task, base=base), folder)
    cache = PartCache(tmp_path / "cache", own=lambda terms: own)
    assert fetch(cache, part).bytes == len(part.manifest)
    plain = PartCache(tmp_path / "plain")
    fetch(plain, part)
    assert (cache.model(terms_of(part)) / "model.safetensors").read_bytes() == (
        plain.model(terms_of(part)) / "model.safetensors"
    ).read_bytes()


def test_of_another_version_of_the_model_what_is_equal_is_taken(
    large: PartFile, tmp_path: Path
) -> None:
    """Of the same name and size, and other values: fetched."""
    own = {"a": values_of(9, 10), "large": values_of(2), "z": values_of(3, 999)}
    cache = PartCache(tmp_path / "cache", own=lambda terms: own)
    fetched = fetch(cache, large)
    assert fetched.bytes < 20_000
    assert torch.equal(content(cache, large)["a"], values_of(1, 10))


def test_a_model_that_does_not_fit_is_left_out(
    large: PartFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def own(terms: Terms) -> Mapping[str, Tensor]:
        raise ModelError("another architecture")

    cache = PartCache(tmp_path / "cache", own=own)
    assert fetch(cache, large).bytes == large.size_bytes
    assert "another architecture" in caplog.text


def test_a_damaged_part_of_an_earlier_run_gives_nothing(large: PartFile, tmp_path: Path) -> None:
    cache = PartCache(tmp_path / "cache")
    fetch(cache, large)
    weights = cache.model(terms_of(large)) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    other = write_part(
        tmp_path / "other", tmp_path, {"large": values_of(2), "z": values_of(3, 1000)}
    )
    fetched = fetch(cache, other)
    assert PIECE_BYTES < fetched.bytes < other.size_bytes
    assert torch.equal(content(cache, other)["large"], values_of(2))


# --- what went wrong


def test_a_tensor_with_another_hash_is_fetched_anew(large: PartFile, tmp_path: Path) -> None:
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    fetch(cache, large, most=2)
    (work,) = (tmp_path / "cache").iterdir()
    (code,) = work.glob("*.code")
    data = bytearray(code.read_bytes())
    data[1000] ^= 1
    code.write_bytes(data)
    with pytest.raises(PacketError, match="announced was"):
        fetch(cache, large)
    # what was right before it stays
    assert fetch(cache, large).bytes < large.size_bytes - len(large.manifest)
    assert cache.needed(terms) is None
    assert torch.equal(content(cache, large)["large"], values_of(2))


def test_another_manifest_than_was_announced(large: PartFile, tmp_path: Path) -> None:
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    place = cache.needed(terms)
    assert place == PartRange(0, len(large.manifest))
    with pytest.raises(PacketError, match="announced was"):
        cache.add(terms, PartPiece(place, b"[" + b" " * (place.size - 2) + b"]"))
    assert cache.needed(terms) == place
    fetch(cache, large)
    assert cache.needed(terms) is None


@pytest.mark.parametrize("left", ["whole", "longer"])
def test_a_tensor_that_was_never_decoded(left: str, large: PartFile, tmp_path: Path) -> None:
    """As a kill after its last byte leaves it: it is fetched anew."""
    fetch(PartCache(tmp_path / "cache"), large, most=2)
    (work,) = (tmp_path / "cache").iterdir()
    (code,) = work.glob("*.code")
    tensor = read_manifest(large.manifest).tensors[int(code.stem)]
    code.write_bytes(bytes(tensor.coded_bytes + (left == "longer")))
    again = PartCache(tmp_path / "cache")
    fetch(again, large)
    assert torch.equal(content(again, large)["large"], values_of(2))


def test_a_part_that_was_changed_on_disk_is_fetched_anew(large: PartFile, tmp_path: Path) -> None:
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    fetch(cache, large)
    with (cache.model(terms) / "model.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    assert fetch(cache, large).bytes == large.size_bytes
    assert cache.needed(terms) is None


def test_devices_of_one_machine_fetch_a_part_side_by_side(large: PartFile, tmp_path: Path) -> None:
    """Neither takes the other's pieces for its own; whoever is first makes the part whole."""
    cache, one = PartCache(tmp_path / "cache"), terms_of(large)
    other = replace(one, device=one.device + 1)
    for _ in range(3):
        for terms in (one, other):
            fetch(cache, large, most=1, terms=terms)
    last = cache.needed(other)
    assert last is not None
    fetch(cache, large, terms=one)
    cache.add(other, PartPiece(last, large.piece(last.offset, last.size)))
    assert cache.needed(one) is cache.needed(other) is None
    assert not list((tmp_path / "cache").glob("*.partial"))


# --- hostile servers


@pytest.mark.parametrize("change", [-1, 1, 10**12])
def test_a_piece_that_is_not_the_next_one(change: int, large: PartFile, tmp_path: Path) -> None:
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    fetch(cache, large, most=2)
    place = cache.needed(terms)
    assert place is not None
    with pytest.raises(PacketError, match="not the next"):
        cache.add(terms, PartPiece(PartRange(place.offset + change, 1), b"x"))


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_more_than_was_asked_for_or_nothing_is_refused(
    pieces: int, large: PartFile, tmp_path: Path
) -> None:
    cache, terms = PartCache(tmp_path / "cache"), terms_of(large)
    fetch(cache, large, most=pieces)
    place = cache.needed(terms)
    assert place is not None
    for data in (b"", bytes(place.size + 1)):
        with pytest.raises(PacketError, match="not the next"):
            cache.add(terms, PartPiece(place, data))
    assert cache.needed(terms) == place


def announced(lines: list[dict[str, object]], tmp_path: Path) -> PartFile:
    (tmp_path / "codes").write_bytes(b"")
    return PartFile(json.dumps(lines).encode(), tmp_path / "codes")


def huge(**changes: object) -> dict[str, object]:
    size = 2**45
    line = {"name": "a", "dtype": "U8", "shape": [size], "sha256": "0" * 64, "coded_bytes": 10}
    return {**line, **changes}


def test_a_part_larger_than_a_device_allows(tmp_path: Path) -> None:
    """Before a byte of disk is taken."""
    part = announced([huge()], tmp_path)
    with pytest.raises(RunError, match=r"takes 32768 GiB on disk, and parts may take 16.0 GiB"):
        fetch(PartCache(tmp_path / "cache"), part)
    (work,) = (tmp_path / "cache").iterdir()
    assert [file.name for file in work.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    "line",
    [
        huge(name="file:../../evil", shape=[4]),
        huge(name="file:/etc/evil", shape=[4]),
        huge(coded_bytes=2**50),
        huge(shape=[-1]),
        huge(dtype="../evil"),
    ],
)
def test_a_manifest_that_no_server_sends(line: dict[str, object], tmp_path: Path) -> None:
    part = announced([line], tmp_path)
    with pytest.raises(PacketError):
        fetch(PartCache(tmp_path / "cache"), part)
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"codes"}


def test_names_lead_nowhere(tmp_path: Path) -> None:
    """A tensor's name is a key in a file, and no path."""
    part = write_part(tmp_path / "part", tmp_path, {"../../evil": values_of(1, 10)})
    cache = PartCache(tmp_path / "cache" / "in")
    fetch(cache, part)
    assert torch.equal(content(cache, part)["../../evil"], values_of(1, 10))
    assert not list(tmp_path.rglob("evil*"))


# --- disk


def test_parts_that_were_used_least_lately_make_room(tmp_path: Path) -> None:
    parts = [write_part(tmp_path / f"{n}", tmp_path, {"a": values_of(n, 25_000)}) for n in range(4)]
    cache = PartCache(tmp_path / "cache", limit_bytes=400_000)
    for age, part in enumerate(parts[:3]):
        fetch(cache, part)
        folder = cache.model(terms_of(part))
        if folder.is_dir():
            os.utime(folder, (1000.0 + age, 1000.0 + age))
    # 100 kB each, twice while it comes: the first has gone
    assert cache.needed(terms_of(parts[1])) is None  # and is used now
    fetch(cache, parts[3])
    there = [cache.model(terms_of(part)).is_dir() for part in parts]
    assert there == [False, True, False, True]


def test_a_full_disk_says_so(
    large: PartFile, tmp_path: Path, full_disk: Callable[[Path], None]
) -> None:
    cache = PartCache(tmp_path / "cache")
    fetch(cache, large, most=2)
    (work,) = (tmp_path / "cache").iterdir()
    full_disk(work)
    with pytest.raises(StorageError, match="cannot write"):
        fetch(cache, large)


@pytest.fixture
def full_disk() -> Callable[[Path], None]:
    """What takes the place of the next code cannot be written."""

    def fill(work: Path) -> None:
        (code,) = work.glob("*.code")
        code.unlink()
        code.mkdir()

    return fill


def test_the_name_of_a_part_is_the_hash_of_its_manifest(large: PartFile) -> None:
    assert large.sha256 == sha256(large.manifest).hexdigest()
