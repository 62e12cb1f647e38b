"""What the codec saves on activations and on gradients, apart from adapters and the model.

Knows a run's rounds, not how they are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cutlayer.train.records import TrainedRound

_PLURALS = {"activation": "activations", "gradient": "gradients"}


@dataclass(frozen=True)
class Saving:
    """Bytes of one payload over the run, and of the same values as float32."""

    name: str
    sent_bytes: int
    uncompressed_bytes: int


def savings(works: Sequence[TrainedRound]) -> list[Saving]:
    """Of the payloads that pass the codec; none where a scheme sends neither."""
    found = []
    for payload, name in _PLURALS.items():
        sent = sum(work.bytes_by_payload.get(payload, 0) for work in works)
        plain = sent + sum(_saved(work, payload) for work in works)
        if sent:
            found.append(Saving(name, sent, plain))
    return found


def _saved(work: TrainedRound, payload: str) -> int:
    """Each way one payload is compressed, and what else goes there is not."""
    if payload == "activation":
        return work.uncompressed_uplink_bytes - work.uplink_bytes
    return work.uncompressed_downlink_bytes - work.downlink_bytes
