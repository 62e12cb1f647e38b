"""The presets by name, as they are without any setting: for benchmarks, tests and the command line.

A run makes its codecs from its configuration instead.
"""

from collections.abc import Callable

from cutlayer.codec import presets
from cutlayer.codec.presets import CodecPair
from cutlayer.errors import ConfigError
from cutlayer.words import nearest

PRESETS: dict[str, Callable[[], CodecPair]] = {
    "none": presets.none,
    "paper": presets.paper,
    "lossless-plus": presets.lossless_plus,
    "best": presets.best,
    "fast": presets.fast,
}


def codec_pair(name: str) -> CodecPair:
    """The codecs of both directions. Raises ConfigError: no preset of that name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown codec {name!r}; {nearest(name, list(PRESETS))}")
    return PRESETS[name]()
