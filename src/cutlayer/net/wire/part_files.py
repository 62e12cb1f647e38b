"""Parts that devices of this machine have: what they still lack of one, fetched in pieces.

A part is a manifest and the codes of its tensors (`model.part_file`). The manifest is fetched
first. Of its tensors, those are asked for that are neither in the parts of earlier runs nor in a
model that the device has; each is verified by its hash as it arrives, and what is here already is
never fetched again, whenever and wherever a link broke. A server decides names within the file
alone, and never more bytes than `limit_bytes`. Knows no link and no session.
"""

import hashlib
import logging
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias, final

from safetensors import safe_open
from torch import Tensor

from cutlayer.errors import CutlayerError, PacketError, RunError
from cutlayer.files import Remedy, in_turn, storage_error, write_atomically, write_folder_atomically
from cutlayer.model.part_file import (
    FILE,
    Manifest,
    PartFile,
    PartTensor,
    code_part,
    content_of,
    decode_tensor,
    read_manifest,
    with_files,
)
from cutlayer.net.wire.messages import PIECE_BYTES, PartPiece, PartRange, Terms
from cutlayer.units import GIB, format_bytes

_LOG = logging.getLogger(__name__)
_WEIGHTS = "model.safetensors"
_MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_REMEDY = Remedy(
    "join again, which resumes where it was",
    "set CUTLAYER_CACHE to a folder that can be written",
)
_CHUNK_BYTES = 1 << 20
# a download that nobody has gone on with for so long
_STALE_S = 24 * 3600.0
LIMIT_BYTES = 16 * GIB

# the tensors of a model that the device has, by name, for these terms
OwnTensors: TypeAlias = Callable[[Terms], Mapping[str, Tensor]]


def write_part(path: Path, folder: Path, tensors: Mapping[str, Tensor]) -> PartFile:
    """Write the codes of the part with these weights, of the model in `folder`, to `path`.

    Raises StorageError if they cannot be written.
    """
    manifests = []

    def write(to: Path) -> None:
        with to.open("wb") as file:
            manifests.append(code_part(with_files(tensors, folder), file.write))

    write_atomically(path, write)
    return PartFile(manifests[-1].to_bytes(), path)


def no_model(terms: Terms) -> Mapping[str, Tensor]:
    """Of a device that has none."""
    return {}


@final
class PartCache:
    """The parts in `folder`: whole ones are shared, what is not whole yet is each device's own.

    They take `limit_bytes` at most; those that were used least lately make room. `own`: what a
    model that the device has gives for a part; it may raise CutlayerError, and all is fetched.
    """

    def __init__(
        self, folder: Path, limit_bytes: int = LIMIT_BYTES, own: OwnTensors = no_model
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._own = own
        self._downloads: dict[Path, _Download] = {}

    def model(self, terms: Terms) -> Path:
        """The model folder of a part that is here: of these weights alone."""
        return self._folder / terms.part_sha256

    def needed(self, terms: Terms) -> PartRange | None:
        """The bytes that are to be fetched next; None if the part is here, and its hashes are
        right.

        Raises PacketError for a manifest that no server sends, RunError for a part that is too
        large or a disk that refuses.
        """
        work = self._work(terms)
        try:
            if self._is_whole(self.model(terms), terms.part_sha256):
                self._downloads.pop(work, None)
                shutil.rmtree(work, ignore_errors=True)
                os.utime(self.model(terms))
                return None
            return self._lacking(terms, work)
        except OSError as error:
            raise storage_error(work, error, _REMEDY) from error

    def add(self, terms: Terms, piece: PartPiece) -> None:
        """Put the next piece down; the last one makes the part whole. Nothing is done if another
        device has made it whole meanwhile.

        Raises PacketError for a piece that is not the next one, or a tensor of another hash, which
        is then to be fetched anew. Raises RunError as `needed` does.
        """
        needed = self.needed(terms)
        if needed is None:
            return
        offset, size = piece.place.offset, len(piece.data)
        if offset != needed.offset or not 0 < size <= needed.size:
            raise PacketError(
                f"a piece of the part, {size} bytes from byte {offset} on, which is not the next"
            )
        work = self._work(terms)
        try:
            if work in self._downloads:
                self._downloads[work].add(piece.data)
            else:
                _append(work / _MANIFEST, piece.data)
            self.needed(terms)
        except OSError as error:
            raise storage_error(work, error, _REMEDY) from error

    def _lacking(self, terms: Terms, work: Path) -> PartRange | None:
        work.mkdir(parents=True, exist_ok=True)
        if work not in self._downloads:
            path = work / _MANIFEST
            size = path.stat().st_size if path.is_file() else 0
            if size < terms.manifest_bytes:
                return PartRange(size, min(PIECE_BYTES, terms.manifest_bytes - size))
            self._downloads[work] = self._begun(terms, work, path.read_bytes())
        needed = self._downloads[work].needed()
        if needed is None:
            self._finish(terms, work)
        return needed

    def _begun(self, terms: Terms, work: Path, data: bytes) -> "_Download":
        """The download of a part whose manifest has come, with all that is here already."""
        found = hashlib.sha256(data).hexdigest()
        try:
            if found != terms.part_sha256:
                raise PacketError(
                    f"a manifest with SHA-256 {found}, announced was {terms.part_sha256}"
                )
            manifest = read_manifest(data)
        except PacketError:
            (work / _MANIFEST).unlink()
            raise
        self._make_room(manifest, work)
        download = _Download(work, manifest, len(data))
        download.take_parts(
            folder for folder in self._folder.iterdir() if not folder.name.endswith(_PARTIAL)
        )
        if download.lacking:
            try:
                download.take_tensors(self._own(terms))
            except CutlayerError as error:
                _LOG.warning("nothing is taken from the model that is here: %s", error)
        have = len(manifest.tensors) - len(download.lacking)
        fetched = sum(manifest.tensors[at].coded_bytes for at in download.lacking)
        _LOG.info(
            "the device part has %d tensors, %d of them are here; %s to fetch",
            len(manifest.tensors),
            have,
            format_bytes(fetched),
        )
        return download

    def _make_room(self, manifest: Manifest, work: Path) -> None:
        """Let the parts that were used least lately go, where there would be too many."""
        # a tensor's code lies beside its place until it is decoded
        codes = max((tensor.coded_bytes for tensor in manifest.tensors), default=0)
        needed = sum(tensor.size_bytes for tensor in manifest.tensors) + codes
        if needed > self._limit_bytes:
            raise RunError(
                f"the device part takes {format_bytes(needed)} on disk, and parts may take"
                f" {format_bytes(self._limit_bytes)} here: allow them more",
                thing="most-disk",
            )
        others = (part for part in self._folder.iterdir() if part.is_dir() and part != work)
        used_s = {part: part.stat().st_mtime for part in others}
        for part in sorted(used_s, key=lambda part: used_s[part], reverse=True):
            needed += sum(file.stat().st_size for file in part.iterdir())
            # what came lately for another device of this machine, whose download goes on
            goes_on = part.name.endswith(_PARTIAL) and time.time() - used_s[part] < _STALE_S
            if needed > self._limit_bytes and not goes_on:
                _LOG.info("removed %s: parts take more than they may", part)
                shutil.rmtree(part, ignore_errors=True)

    def _finish(self, terms: Terms, work: Path) -> None:
        """Put a part that is whole in its place."""
        del self._downloads[work]

        def write(folder: Path) -> None:
            partial = work / _WEIGHTS
            with safe_open(partial, framework="pt") as file:
                for name in [name for name in file.keys() if name.startswith(FILE)]:  # noqa: SIM118
                    content = bytes(content_of(file.get_tensor(name)))
                    # a manifest is read only if these are names of a model folder's files
                    (folder / name.removeprefix(FILE)).write_bytes(content)
            partial.rename(folder / _WEIGHTS)
            (work / _MANIFEST).rename(folder / _MANIFEST)

        with in_turn(self._folder / f"{terms.part_sha256}.lock"):
            if not (self.model(terms) / _WEIGHTS).is_file():  # else another device was first
                write_folder_atomically(self.model(terms), write, _REMEDY)
        shutil.rmtree(work, ignore_errors=True)

    def _is_whole(self, folder: Path, sha256: str) -> bool:
        """Whether a part is there, to the bit; if it is damaged, it is removed."""
        weights = folder / _WEIGHTS
        if not weights.is_file():
            return False
        data = (folder / _MANIFEST).read_bytes() if (folder / _MANIFEST).is_file() else b""
        if hashlib.sha256(data).hexdigest() == sha256:
            manifest = read_manifest(data)
            with weights.open("rb") as file:
                if file.read(len(manifest.header())) == manifest.header() and all(
                    _hash_at(file, at, tensor.size_bytes) == tensor.sha256
                    for at, tensor in zip(manifest.places(), manifest.tensors, strict=True)
                ):
                    return True
        weights.unlink(missing_ok=True)
        return False

    def _work(self, terms: Terms) -> Path:
        return self._folder / f"{terms.part_sha256}-{terms.run}-{terms.device}{_PARTIAL}"


@final
class _Download:
    """The tensors of a part on their way into the file that they will be, in the folder `work`.

    Each is verified before it counts. After a restart those that are there already are found by
    their hashes, and of the next one as much of its code as had come.
    """

    def __init__(self, work: Path, manifest: Manifest, manifest_bytes: int) -> None:
        self._manifest = manifest
        self._work = work
        self._path = work / _WEIGHTS
        self._places = manifest.places()
        starts = [manifest_bytes]
        for tensor in manifest.tensors:
            starts.append(starts[-1] + tensor.coded_bytes)
        self._starts = starts
        header = manifest.header()
        size = len(header) + sum(tensor.size_bytes for tensor in manifest.tensors)
        # in the order in which they are fetched
        self.lacking = [at for at, tensor in enumerate(manifest.tensors) if tensor.size_bytes]
        again = self._path.is_file()
        with self._path.open("r+b" if again else "w+b") as file:
            file.truncate(size)
            file.write(header)
            if again:
                self.lacking = [at for at in self.lacking if not self._is_at(file, at)]

    def take_parts(self, folders: Iterable[Path]) -> None:
        """Copy what parts that are whole have."""
        wanted = {self._manifest.tensors[at].sha256 for at in self.lacking}
        for folder in folders:
            data = (folder / _MANIFEST).read_bytes() if (folder / _MANIFEST).is_file() else b""
            if not wanted or not data or not (folder / _WEIGHTS).is_file():
                continue
            try:
                other = read_manifest(data)
            except PacketError:
                continue
            with (folder / _WEIGHTS).open("rb") as source:
                for place, tensor in zip(other.places(), other.tensors, strict=True):
                    if tensor.sha256 in wanted:
                        self._copy(source, place, tensor)

    def _copy(self, source: BinaryIO, place: int, tensor: PartTensor) -> None:
        """Copy a tensor to where the part has it, if it is what its manifest said."""
        if _hash_at(source, place, tensor.size_bytes) != tensor.sha256:
            return
        for at in [at for at in self.lacking if self._is(at, tensor.sha256, tensor.size_bytes)]:
            source.seek(place)
            with self._path.open("r+b") as file:
                file.seek(self._places[at])
                left = tensor.size_bytes
                while left:
                    left -= file.write(source.read(min(left, _CHUNK_BYTES)))
            self.lacking.remove(at)

    def take_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy those of them that the part has, under the same names."""
        for at in list(self.lacking):
            tensor = tensors.get(self._manifest.tensors[at].name)
            if tensor is None:
                continue
            data = content_of(tensor)
            if self._is(at, hashlib.sha256(data).hexdigest(), len(data)):
                with self._path.open("r+b") as file:
                    file.seek(self._places[at])
                    file.write(data)
                self.lacking.remove(at)

    def _is_at(self, file: BinaryIO, at: int) -> bool:
        tensor = self._manifest.tensors[at]
        return _hash_at(file, self._places[at], tensor.size_bytes) == tensor.sha256

    def _is(self, at: int, sha256: str, size: int) -> bool:
        tensor = self._manifest.tensors[at]
        return (tensor.sha256, tensor.size_bytes) == (sha256, size)

    def needed(self) -> PartRange | None:
        """From the next byte on, as far as what lacks is in one piece."""
        if not self.lacking:
            return None
        first = self.lacking[0]
        begin, end = self._starts[first] + self._have(first), self._starts[first + 1]
        for at in self.lacking[1:]:
            if self._starts[at] != end or end - begin >= PIECE_BYTES:
                break
            end = self._starts[at + 1]
        return PartRange(begin, min(end - begin, PIECE_BYTES))

    def add(self, data: bytes) -> None:
        """The bytes that `needed` asked for, or the first of them. Raises PacketError: they end a
        tensor that is another than was announced."""
        while data:
            first = self.lacking[0]
            left = self._starts[first + 1] - self._starts[first] - self._have(first)
            _append(self._code(first), data[:left])
            if len(data) >= left:
                self._decode(first)
            data = data[left:]

    def _have(self, at: int) -> int:
        """How much of a tensor's code has come [bytes]; none of one that is too long."""
        path, size = self._code(at), self._manifest.tensors[at].coded_bytes
        have = path.stat().st_size if path.is_file() else 0
        if have >= size:  # it was not decoded, as by a kill
            path.unlink()
            return 0
        return have

    def _decode(self, at: int) -> None:
        tensor, path = self._manifest.tensors[at], self._code(at)
        try:
            with path.open("rb") as source, self._path.open("r+b") as file:
                file.seek(self._places[at])
                # what is mapped is no memory of the process
                code = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
                decode_tensor(tensor, memoryview(code), file.write)
        finally:
            path.unlink()
        self.lacking.pop(0)

    def _code(self, at: int) -> Path:
        return self._work / f"{at}.code"


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _hash_at(file: BinaryIO, place: int, size: int) -> str:
    """The hash of so many bytes of a file."""
    found = hashlib.sha256()
    file.seek(place)
    while size:
        data = file.read(min(size, _CHUNK_BYTES))
        if not data:
            break
        found.update(data)
        size -= len(data)
    return found.hexdigest()
