"""Where a device keeps what it must not lose: one file, replaced as a whole.

Knows neither sessions nor what the tensors are.
"""

import json
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
from cutlayer.train.files import write_atomically

_TERMS = TypeAdapter(Terms)


@dataclass(frozen=True, eq=False)
class Stored:
    """A device's state before `position` of a run on `terms`."""

    position: Position
    terms: Terms
    tensors: dict[str, Tensor]


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
        about = {"position": astuple(stored.position), "terms": asdict(stored.terms)}
        tensors = {name: tensor.contiguous() for name, tensor in stored.tensors.items()}
        metadata = {"device": json.dumps(about)}
        write_atomically(self._path, lambda path: save_file(tensors, path, metadata))

    def load(self) -> Stored | None:
        """The last state saved, or None. Raises RunError for a file that cannot be read."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                about = json.loads(file.metadata()["device"])
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            terms = _TERMS.validate_json(json.dumps(about["terms"]))
            return Stored(Position(*about["position"]), terms, tensors)
        except (SafetensorError, ValidationError, KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{self._path} cannot be read: {error}; delete it, and the device begins anew"
            ) from error
