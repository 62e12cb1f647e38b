"""A device's part as it is sent: a manifest, then the coded tensors it names, one after another.

The manifest has a line for each tensor of the embedding and the blocks below the cut: name, type,
shape, SHA-256 of its bytes, and how long its code is. Beside them, as bytes under `file:NAME`,
stands what a model folder has in small files (configuration, preprocessing, tokenizer). Equal parts
give equal manifests, so the SHA-256 of the manifest is the part's name everywhere, and whoever has
a tensor of that hash needs no other. Decoded, the tensors lie in a safetensors file at places that
the manifest decides. Knows no link and no session.
"""

import bz2
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, final

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.weights import SLICE_VALUES, Numbers, decode_slice, encode_weights
from cutlayer.errors import PacketError

FILE = "file:"
# what else of a model folder is needed to use its part
SMALL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# each is held in memory to be decoded
_LARGEST_SMALL_FILE = 2**26
# a compressor's block of a text
_LEVEL = 9
# beyond any dimension, and within what every JSON reader counts to
_LARGEST = 2**53
# by safetensors' names of types: torch's, and how they are coded
_KINDS: Mapping[str, tuple[torch.dtype, Numbers]] = {
    "F64": (torch.float64, Numbers(8)),
    "F32": (torch.float32, Numbers(4, turned=True)),
    "BF16": (torch.bfloat16, Numbers(2, turned=True)),
    "F16": (torch.float16, Numbers(2)),
    "I64": (torch.int64, Numbers(8)),
    "I32": (torch.int32, Numbers(4)),
    "I16": (torch.int16, Numbers(2)),
    "I8": (torch.int8, Numbers(1)),
    "U8": (torch.uint8, Numbers(1)),
    "BOOL": (torch.bool, Numbers(1)),
}
_NAMES = {kind: name for name, (kind, _) in _KINDS.items()}
_ALIGNED = 8
_HEADER_LENGTH = 8

Sink = Callable[[bytes], object]


@final
@checked(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class PartTensor:
    """A tensor of a part; `coded_bytes`: of its code."""

    name: Annotated[str, Field(min_length=1, max_length=1024)]
    dtype: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=_LARGEST)]], Field(max_length=8)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    coded_bytes: Annotated[int, Field(ge=0, le=_LARGEST)]

    @property
    def numbers(self) -> Numbers:
        """How its values lie in bytes."""
        return _KINDS[self.dtype][1]

    @property
    def size_bytes(self) -> int:
        """Decoded."""
        return math.prod(self.shape) * self.numbers.width

    @property
    def is_file(self) -> bool:
        """Whether it is a small file."""
        return self.name.startswith(FILE)


@final
@dataclass(frozen=True)
class Manifest:
    """What a part has, in the order of the file it is sent as and of that which it becomes."""

    tensors: tuple[PartTensor, ...]

    def to_bytes(self) -> bytes:
        """As JSON, the same each time."""
        lines = [asdict(tensor) for tensor in self.tensors]
        return json.dumps(lines, separators=(",", ":")).encode()

    @property
    def sent_bytes(self) -> int:
        """Of the whole, with itself."""
        return len(self.to_bytes()) + sum(tensor.coded_bytes for tensor in self.tensors)

    def header(self) -> bytes:
        """What a safetensors file with the tensors begins with."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor in self.tensors:
            end = at + tensor.size_bytes
            about = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}
            entries[tensor.name] = about
            at = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNED)
        return len(text).to_bytes(_HEADER_LENGTH, "little") + text

    def places(self) -> list[int]:
        """Where in that file each tensor begins [bytes]."""
        at = len(self.header())
        places = []
        for tensor in self.tensors:
            places.append(at)
            at += tensor.size_bytes
        return places


_MANIFEST = TypeAdapter(list[PartTensor])


def read_manifest(data: bytes) -> Manifest:
    """What `Manifest.to_bytes` gave. Raises PacketError for any other bytes, and for tensors that
    no part has: of unknown types, with codes longer than they are, named twice."""
    try:
        tensors = tuple(_MANIFEST.validate_json(data))
    except ValidationError as error:
        raise PacketError(f"a manifest of a part in {len(data)} bytes, which is none") from error
    for tensor in tensors:
        if tensor.dtype not in _KINDS or (tensor.is_file and tensor.dtype != "U8"):
            raise PacketError(f"a tensor of type {tensor.dtype[:16]!r} in a part")
        most = _most_bytes(tensor)
        if tensor.coded_bytes > most or (tensor.size_bytes > 0) != (tensor.coded_bytes > 0):
            raise PacketError(
                f"a tensor of {tensor.size_bytes} bytes in a code of {tensor.coded_bytes}"
            )
        if not tensor.size_bytes and tensor.sha256 != sha256_of(memoryview(b"")):
            raise PacketError(f"{tensor.name}: a hash that no tensor without values has")
        if tensor.is_file and tensor.size_bytes > _LARGEST_SMALL_FILE:
            raise PacketError(f"a small file of {tensor.size_bytes} bytes in a part")
        if tensor.is_file and tensor.name.removeprefix(FILE) not in SMALL_FILES:
            raise PacketError("a file in a part that no model folder has")
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names) or "__metadata__" in names:
        raise PacketError("a manifest that names a tensor twice, or none")
    if list(tensors) != sorted(tensors, key=_order):
        raise PacketError("a manifest in another order than that of the file")
    return Manifest(tensors)


def _most_bytes(tensor: PartTensor) -> int:
    if tensor.is_file:  # bzip2's own bound
        return tensor.size_bytes + tensor.size_bytes // 100 + 600
    return tensor.numbers.most_bytes(tensor.size_bytes)


def _order(tensor: PartTensor) -> tuple[int, str]:
    """Wide values first, so that all are aligned."""
    return -tensor.numbers.width, tensor.name


def with_files(tensors: Mapping[str, Tensor], folder: Path | None) -> dict[str, Tensor]:
    """The tensors, and the small files of the model folder as bytes; None: there is none."""
    files = {
        FILE + name: torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        for name in SMALL_FILES
        if folder is not None and (file := folder / name).is_file() and file.stat().st_size
    }
    return {**tensors, **files}


def content_of(tensor: Tensor) -> memoryview:
    """A tensor's bytes, on the host."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data.cast("B") if len(flat) else memoryview(b"")


def sha256_of(data: memoryview) -> str:
    """The hash by which a tensor is known."""
    return hashlib.sha256(data).hexdigest()


def type_of(tensor: Tensor) -> str:
    """As a manifest has it."""
    return _NAMES[tensor.dtype]


def code_part(tensors: Mapping[str, Tensor], sink: Sink) -> Manifest:
    """Give the codes of the tensors, and of the small files beside them (`with_files`), to `sink`
    in the manifest's order; a little of a tensor at a time."""
    kernels = load_kernels()
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    return Manifest(tuple(_code(name, tensors[name], sink, kernels) for name in order))


def _code(name: str, tensor: Tensor, sink: Sink, kernels: Kernels) -> PartTensor:
    data, dtype, length = content_of(tensor), type_of(tensor), 0
    for code in _codes(name, data, _KINDS[dtype][1], kernels):
        sink(code)
        length += len(code)
    return PartTensor(name, dtype, list(tensor.shape), sha256_of(data), length)


def _codes(name: str, data: memoryview, numbers: Numbers, kernels: Kernels) -> Iterator[bytes]:
    if name.startswith(FILE):
        yield bz2.compress(data, _LEVEL)  # whose one implementation gives the same bytes anywhere
    else:
        yield from encode_weights(data, numbers, kernels)


def decode_tensor(tensor: PartTensor, code: memoryview, sink: Sink) -> None:
    """Give a tensor's bytes to `sink`, a little at a time. Raises PacketError: it is none of that
    shape, or has another hash."""
    found, at = hashlib.sha256(), 0
    for data, read in _decoded(tensor, code):
        at += read
        found.update(data)
        sink(data)
    if at != len(code) or found.hexdigest() != tensor.sha256:
        raise PacketError(
            f"{tensor.name}: a tensor with SHA-256 {found.hexdigest()}, announced was"
            f" {tensor.sha256}"
        )


def _decoded(tensor: PartTensor, code: memoryview) -> Iterator[tuple[bytes, int]]:
    if tensor.is_file:
        try:
            text = bz2.BZ2Decompressor().decompress(code, tensor.size_bytes + 1)
        except (OSError, ValueError, EOFError) as error:
            raise PacketError(f"{tensor.name}: damaged") from error
        yield text, len(code)
        return
    kernels, at = load_kernels(), 0
    values = math.prod(tensor.shape)
    for first in range(0, values, SLICE_VALUES):
        count = min(SLICE_VALUES, values - first)
        data, read = decode_slice(code[at:], count, tensor.numbers, kernels)
        at += read
        yield data, read


def priced_bytes(tensors: Mapping[str, Tensor], folder: Path | None) -> int:
    """How many bytes these weights are when they are sent, with the small files of their folder;
    what is tied is sent once."""
    seen: set[tuple[int, int]] = set()
    own = {}
    for name, tensor in tensors.items():
        key = tensor.data_ptr(), tensor.nbytes
        if key not in seen or not tensor.nbytes:
            seen.add(key)
            own[name] = tensor
    return code_part(with_files(own, folder), lambda code: None).sent_bytes


@final
@dataclass(frozen=True)
class PartFile:
    """A part to be served: its manifest, and the file at `path` with the codes."""

    manifest: bytes
    path: Path

    @property
    def sha256(self) -> str:
        """Of the manifest: the part's name."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Of manifest and codes."""
        return len(self.manifest) + self.path.stat().st_size

    def piece(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on. Raises PacketError past its end."""
        if offset >= self.size_bytes:
            raise PacketError(f"a piece of the part from byte {offset} on, which is past its end")
        head = self.manifest[offset : offset + size]
        with self.path.open("rb") as file:
            file.seek(max(offset - len(self.manifest), 0))
            return head + file.read(size - len(head))
