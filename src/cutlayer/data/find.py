"""Where a pretrained model lies: a local path, the cache, the Hugging Face hub, a package."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cutlayer.data.samples import Source


@dataclass(frozen=True)
class Found:
    """A Hugging Face model folder on this machine, and who served it."""

    path: Path
    source: Source


def find_model(
    name: str, *, cache: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> Found:
    """The folder of a model named by path, by a known short name (`dinov2-small`) or by hub id.

    Looked for in this order: path, cache, hub (first what lies in Hugging Face's own cache, then
    the network, given up within seconds), package. `cache`: cutlayer's cache directory (default:
    `$CUTLAYER_CACHE`, `$XDG_CACHE_HOME/cutlayer`, `~/.cache/cutlayer`). `say` is told each slow
    step in one line. Raises `AssetError` when nobody has it, naming the nearest known names.
    """
    raise NotImplementedError
