"""A device's part as one file: written by the server, fetched in pieces, kept by its hash.

A safetensors file of the tensors of the embedding and the blocks below the cut, and nothing else of
the model; beside them, as bytes under `file:NAME`, what a model folder has in small files
(configuration, preprocessing, tokenizer). Equal parts give equal bytes, so the SHA-256 of the file
is its name everywhere. Knows no link and no session.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutlayer.errors import PacketError
from cutlayer.files import Remedy, in_turn, storage_error, write_atomically, write_folder_atomically
from cutlayer.net.wire.messages import PIECE_BYTES, PartPiece, Terms

_FILE = "file:"
_WEIGHTS = "model.safetensors"
_REMEDY = Remedy(
    "join again, which resumes where it was",
    "set CUTLAYER_CACHE to a folder that can be written",
)
# what else of a model folder is needed to use its part
_SMALL_FILES = (
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


@final
@dataclass(frozen=True)
class PartFile:
    """The file at `path`, and its SHA-256."""

    path: Path
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Its length [bytes]."""
        return self.path.stat().st_size

    def piece(self, offset: int) -> bytes:
        """Its bytes from `offset` on, at most `PIECE_BYTES`. Raises PacketError past its end."""
        if offset >= self.size_bytes:
            raise PacketError(f"a piece of the part from byte {offset} on, which is past its end")
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)


def write_part(path: Path, folder: Path, tensors: Mapping[str, Tensor]) -> PartFile:
    """Write the part with these weights, of the model in `folder`, to `path`.

    Raises RunError if it cannot be written.
    """
    small = {
        _FILE + name: torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        for name in _SMALL_FILES
        if (file := folder / name).is_file()
    }
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()} | small
    # one key of metadata: safetensors writes several in random order
    write_atomically(path, lambda to: save_file(whole, to, {"format": "pt"}))
    return PartFile(path, _sha256(path))


@final
class PartCache:
    """Parts that devices of this machine have fetched, in `folder`: whole ones are shared, what is
    not whole yet is each device's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def model(self, terms: Terms) -> Path:
        """The model folder of a part that is here: of these weights alone."""
        return self._folder / terms.part_sha256

    def next_byte(self, terms: Terms) -> int | None:
        """The byte from which on the part is to be fetched; None if it is here, and its hash is
        right."""
        weights = self.model(terms) / _WEIGHTS
        if weights.is_file():
            if _sha256(weights) == terms.part_sha256:
                self._partial(terms).unlink(missing_ok=True)
                return None
            weights.unlink(missing_ok=True)
        partial = self._partial(terms)
        fetched = partial.stat().st_size if partial.is_file() else 0
        return fetched if fetched < terms.part_bytes else self._late(terms, partial)

    def add(self, terms: Terms, piece: PartPiece) -> None:
        """Put the next piece down; the last one makes the part whole. Nothing is done if another
        device has made it whole meanwhile.

        Raises PacketError for a piece that is not the next one, or if the whole has another hash:
        it is then to be fetched anew. Raises RunError if the disk refuses.
        """
        partial, offset = self._partial(terms), piece.place.offset
        offset_needed = self.next_byte(terms)
        if offset_needed is None:
            return
        if offset != offset_needed or offset + len(piece.data) > terms.part_bytes:
            raise PacketError(f"a piece of the part from byte {offset} on, which is not the next")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file:
                file.write(piece.data)
        except OSError as error:
            raise storage_error(partial, error, _REMEDY) from error
        if offset + len(piece.data) == terms.part_bytes:
            self._unpack(terms, partial)

    def _late(self, terms: Terms, partial: Path) -> int | None:
        """What `offset_needed` gives for a part that was fetched and never unpacked, as by a kill
        between the two: it is unpacked now, or fetched anew."""
        try:
            self._unpack(terms, partial)
        except PacketError:
            return 0
        return None

    def _unpack(self, terms: Terms, partial: Path) -> None:
        found = _sha256(partial)
        if found != terms.part_sha256:
            partial.unlink()
            raise PacketError(f"a part with SHA-256 {found}, announced was {terms.part_sha256}")

        def write(folder: Path) -> None:
            with safe_open(partial, framework="pt") as file:
                # a name is a name: nothing leads out of the folder
                for name in set(file.keys()) & {_FILE + name for name in _SMALL_FILES}:
                    content = file.get_tensor(name).numpy().tobytes()
                    (folder / name.removeprefix(_FILE)).write_bytes(content)
            partial.rename(folder / _WEIGHTS)

        with in_turn(self._folder / f"{terms.part_sha256}.lock"):
            if (self.model(terms) / _WEIGHTS).is_file():  # another device's, who was first
                partial.unlink()
            else:
                write_folder_atomically(self.model(terms), write, _REMEDY)

    def _partial(self, terms: Terms) -> Path:
        return self._folder / f"{terms.part_sha256}-{terms.run}-{terms.device}.partial"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
