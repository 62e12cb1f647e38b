"""How far devices are in a round, and in words: who holds it up. Knows numbers and names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

NameOf = Callable[[int], str | None]

# a message is read by a person
_NAMED = 8


@dataclass(frozen=True)
class Standing:
    """How far a device is in the round: whether it is here, its local steps, its adapter's."""

    connected: bool
    steps: int
    done: bool


def missing(standings: Sequence[Standing], steps: int, name_of: NameOf) -> str:
    """Whose adapter of a round of so many local `steps` has not come, and how far each is."""
    late = [device for device, own in enumerate(standings) if not own.done]
    said = [
        f"{name_of(device) or f'device {device}'}"
        f" ({'connected' if standings[device].connected else 'away'},"
        f" {standings[device].steps} of {steps} local steps)"
        for device in late[:_NAMED]
    ]
    rest = len(late) - len(said)
    return ", ".join(said) + (f" and {rest} more" if rest else "")
