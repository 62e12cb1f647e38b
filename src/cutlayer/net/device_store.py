"""Where a device keeps what it must not lose: one file, replaced as a whole, with a checksum.

Knows neither sessions nor what the tensors are.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import final

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutlayer.errors import RunError
from cutlayer.net.frames import Position
from cutlayer.net.messages import Terms
from cutlayer.train.files import Mend, write_atomically

_Place = tuple[int, int, int]
# the shorter one is of a version that did not note the samples
_ABOUT = TypeAdapter[tuple[_Place, Terms, str | None] | tuple[_Place, Terms]](
    tuple[_Place, Terms, str | None] | tuple[_Place, Terms]
)
_MEND = Mend(
    "start `cutlayer join` again, it goes on where it was",
    "name a folder that can be written with --identity",
)


@dataclass(frozen=True, eq=False)
class Stored:
    """A device's state before `position` of a run on `terms`; `samples` says what it trained on
    (None: nobody noted it)."""

    position: Position
    terms: Terms
    tensors: dict[str, Tensor]
    samples: str | None = None


@final
class DeviceStore:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """The file, which may not be there."""
        return self._path

    def save(self, stored: Stored) -> None:
        """Put a state in the place of the one before. Raises RunError if it cannot be written."""
        about = json.dumps((astuple(stored.position), asdict(stored.terms), stored.samples))
        tensors = {name: tensor.contiguous() for name, tensor in stored.tensors.items()}
        # one key: safetensors writes several in random order
        metadata = {"device": json.dumps((about, _checksum(about, tensors)))}
        write_atomically(self._path, lambda path: save_file(tensors, path, metadata), _MEND)

    def load(self) -> Stored | None:
        """The last state saved, or None. Raises RunError for a file that cannot be read."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                about, checksum = json.loads(file.metadata()["device"])
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            if _checksum(about, tensors) != checksum:
                raise ValueError("its checksum is another")
            position, terms, *samples = _ABOUT.validate_json(about)
        except (SafetensorError, ValidationError, KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._path} cannot be read: {error}; delete it, and the device begins its round"
                " anew"
            ) from error
        return Stored(Position(*position), terms, tensors, samples[0] if samples else None)


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all that is in a file."""
    value = zlib.crc32(about.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.numpy().tobytes(), value)
    return value
