"""What a device is told of a run before it has an identity: enough to see whether its data fit."""

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from cutlayer.errors import IdentityError
from cutlayer.net.limits import TERMS_BYTES
from cutlayer.spec import Task

# it is of the terms, whose bound is its own
OUTLINE_BYTES = TERMS_BYTES


@checked(frozen=True)
class Outline:
    """The task, and the names of the classes; none for language modelling."""

    task: Task
    class_names: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As JSON."""
        return _ADAPTER.dump_json(self)


_ADAPTER = TypeAdapter(Outline)


def read_outline(content: bytes) -> Outline:
    """What `to_bytes` gave. Raises IdentityError."""
    try:
        return _ADAPTER.validate_json(content)
    except ValidationError as error:
        raise IdentityError(
            "what the server says of its run cannot be read: run one cutlayer on both ends"
        ) from error
