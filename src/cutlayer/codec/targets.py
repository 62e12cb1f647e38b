"""The labels that go up beside an activation: the server computes the loss, so it needs them.

Class numbers, or token ids for language modelling; padding (-100) is never sent. The smallest
unsigned type that holds every class carries them, little endian, with a CRC-32 behind.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from cutlayer.errors import PacketError
from cutlayer.spec import IGNORED_LABEL

_CRC_BYTES = 4


def encode_targets(labels: Int64[np.ndarray, "..."], classes: int) -> bytes:
    """The bytes of all labels that are not padding, in order. Labels are 0..classes-1.

    Raises PacketError for a label outside that range.
    """
    sent = labels[labels != IGNORED_LABEL]
    if sent.size and not (sent.min() >= 0 and sent.max() < classes):
        wrong = sent[(sent < 0) | (sent >= classes)][0]
        raise PacketError(f"label {wrong} is outside 0..{classes - 1}")
    body: bytes = sent.astype(_dtype(classes)).tobytes()
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def decode_targets(
    payload: bytes, shape: tuple[int, ...], lengths: Sequence[int] | None, classes: int
) -> Int64[np.ndarray, "..."]:
    """Labels of `shape` ([batch], or [batch, token] with `lengths` tokens that count).

    Raises PacketError for a wrong length, a wrong checksum or a label outside 0..classes-1.
    """
    body, crc = payload[:-_CRC_BYTES], payload[-_CRC_BYTES:]
    if len(payload) < _CRC_BYTES or zlib.crc32(body).to_bytes(_CRC_BYTES, "little") != crc:
        raise PacketError(f"labels: the checksum of {len(payload)} bytes is wrong")
    counts = _counted(shape, lengths)
    dtype = _dtype(classes)
    if len(body) != int(counts.sum()) * dtype.itemsize:
        raise PacketError(f"labels: {len(body)} bytes for {int(counts.sum())} labels of {dtype}")
    labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
    labels[counts] = np.frombuffer(body, dtype)
    if labels.size and labels.max() >= classes:
        raise PacketError(f"label {labels.max()} is outside 0..{classes - 1}")
    return labels


def _counted(shape: tuple[int, ...], lengths: Sequence[int] | None) -> np.ndarray:
    """Which places of `shape` carry a label."""
    if len(shape) == 1 or lengths is None:
        return np.ones(shape, dtype=bool)
    return np.arange(shape[1])[None, :] < np.asarray(lengths)[:, None]


def _dtype(classes: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(np.min_scalar_type(max(classes - 1, 0))).newbyteorder("<")
