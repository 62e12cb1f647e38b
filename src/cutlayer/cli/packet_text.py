"""A packet's fields and sections as lines of text."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from cutlayer.codec.codec import EMPTY, Codec
from cutlayer.codec.measure import bits_per_element
from cutlayer.codec.packet import VERSION, Frame, read
from cutlayer.codec.presets import PRESETS, codec_pair
from cutlayer.codec.staged import ENTROPY_CODERS, QUANTISERS, SCOPES, TRANSFORMS
from cutlayer.errors import PacketError

# a packet's shape is only what it claims: larger ones are not decoded to see whether they can be
MOST_ELEMENTS = 2**27
_STAGES = 5


def describe_packet(data: bytes, frame: Frame) -> Iterator[str]:
    """Lines for `data`, which `packet.read` has made `frame` of."""
    elements = math.prod(frame.shape)
    yield f"kind      {frame.kind}, version {VERSION}, checksum right"
    yield f"tensor    float32, {' x '.join(map(str, frame.shape)) or 'scalar'}"
    bits = f", {bits_per_element(len(data), elements):.3f} bits an element" if elements else ""
    yield f"bytes     {len(data)}{bits}"
    if "stages" in frame.sections:
        yield f"stages    {_stages(frame.sections['stages'])}"
    yield f"decodes   {_decodes(data, frame, elements)}"
    yield from _sections(data, frame.sections)
    if "inner" in frame.sections:
        inner = frame.sections["inner"]
        yield from (f"  {line}" for line in describe_packet(inner, read(inner)))


def _sections(data: bytes, sections: Mapping[str, bytes]) -> Iterator[str]:
    sizes = {name: len(section) for name, section in sections.items()}
    sizes["frame"] = len(data) - sum(sizes.values())
    width = max(len(name) for name in sizes)
    yield "sections  bytes"
    for name, size in sizes.items():
        yield f"  {name:<{width}} {size:>10}  {100 * size / len(data):5.1f} %"


def _stages(stages: bytes) -> str:
    """The five bytes in words, `?` for one that no version made."""
    if len(stages) != _STAGES:
        return f"{len(stages)} bytes, expected {_STAGES}"
    centre, transform, scope, quantiser, entropy = stages
    words = ["centred"] if centre else []
    named: dict[int, str] = {number: kind.__name__ for kind, number in TRANSFORMS.items() if kind}
    if transform:
        words.append(named.get(transform, "?"))
    if scope:
        scopes = {number: name for name, number in SCOPES.items()}
        words.append(f"Top-K by {scopes.get(scope, '?')}")
    words.append({n: kind.__name__ for kind, n in QUANTISERS.items()}.get(quantiser, "?"))
    words.append({n: kind.__name__ for kind, n in ENTROPY_CODERS.items()}.get(entropy, "?"))
    return " -> ".join(words)


def _decodes(data: bytes, frame: Frame, elements: int) -> str:
    """Which preset decodes it by itself, or what the one of its stages says to it."""
    if elements > MOST_ELEMENTS:
        return f"not tried: it claims {elements} elements"
    for name in PRESETS:
        pair = codec_pair(name)
        for codec in (pair.up, pair.down):
            if not _same_stages(codec, frame):
                continue
            try:
                codec.decode(data, frame.shape, EMPTY)
            except PacketError as error:
                return f"not by itself, codec {name}: {error}"
            return f"yes, codec {name}"
    return "by none of the presets"


def _same_stages(codec: Codec, frame: Frame) -> bool:
    sample = codec.encode(np.zeros(1, dtype=np.float32), EMPTY, np.random.default_rng(0))
    own = read(sample.packet)
    return (own.kind, own.sections.get("stages")) == (frame.kind, frame.sections.get("stages"))
