"""The rows of `cutlayer codec bench`. Imports torch, which the other actions do without."""

import logging
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.codec import Codec
from cutlayer.codec.measure import fidelity, measure
from cutlayer.codec.presets import PRESETS, codec_pair
from cutlayer.config.job import use_threads
from cutlayer.config.probe import Probe, probe
from cutlayer.config.schema import Config
from cutlayer.train.probe import device_gradient, server_gradient

_LOG = logging.getLogger(__name__)

Row = tuple[str, ...]
Judge = Callable[[Float32[np.ndarray, "batch token width"]], float]
_REPEATS = 5


def bench_rows(config: Config, warm_steps: int, packets: int) -> tuple[str, list[Row]]:
    """What was measured on, and a row for each preset and direction.

    Raises CutlayerError for a configuration that cannot be.
    """
    use_threads(config)
    made = probe(config, warm_steps, packets)
    up, down = _judges(made)
    rows = []
    for name in PRESETS:
        _LOG.info(f"codec {name}")
        pair = codec_pair(name)
        activations = [crossing.activation for crossing in made.crossings]
        gradients = [crossing.gradient for crossing in made.crossings]
        rows.append(_row(name, "activation", pair.up, activations, made, up))
        rows.append(_row("", "gradient", pair.down, gradients, made, down))
    return made.source, rows


def _judges(made: Probe) -> tuple[Judge, Judge]:
    """The cosine of the adapter's gradient, of a decoded activation and of a decoded gradient."""
    last = made.crossings[-1]
    server = server_gradient(made.parts, last, last.activation).numpy()
    device = device_gradient(made.parts, last, last.gradient).numpy()
    return (
        lambda y: fidelity(server, server_gradient(made.parts, last, y).numpy()).cosine,
        lambda y: fidelity(device, device_gradient(made.parts, last, y).numpy()).cosine,
    )


def _row(
    name: str,
    what: str,
    codec: Codec,
    tensors: list[Float32[np.ndarray, "batch token width"]],
    made: Probe,
    judge: Judge,
) -> Row:
    done = measure(
        codec,
        tensors,
        0,
        time.perf_counter,
        lengths=[crossing.batch.lengths for crossing in made.crossings],
        repeats=_REPEATS,
    )
    megabytes = tensors[-1].nbytes / 1e6
    return (
        name,
        what,
        f"{done.bits:.3f}",
        f"{done.ratio:.1f}",
        f"{megabytes / done.encode_s:.0f} MB/s",
        f"{megabytes / done.decode_s:.0f} MB/s",
        f"{done.fidelity.error:.4f}",
        f"{done.fidelity.cosine:.4f}",
        f"{judge(done.decoded):.4f}",
    )
