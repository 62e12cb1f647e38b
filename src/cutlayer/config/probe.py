"""A configuration made into a split model and a few mini-batches, for judging codecs.

Finds and loads what a run would, but for one device and without a codec.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from cutlayer.config.adapter import trains_head
from cutlayer.config.dataset import prepare_data
from cutlayer.config.schema import Config
from cutlayer.data.batches import Batch, BatchPlan
from cutlayer.data.find import find_model
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.lora import AdapterSpec
from cutlayer.train.probe import Crossing, Parts, crossings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Probe:
    """A split model and what its local steps send, oldest first; `source`: what it was made of."""

    parts: Parts
    crossings: tuple[Crossing, ...]
    source: str


def probe(config: Config, warm_steps: int, kept_steps: int) -> Probe:
    """Train one device of `config` for `warm_steps`, then keep what `kept_steps` more send.

    Raises CutlayerError for a model, data set or cut that cannot be.
    """
    found = find_model(config.model.name)
    prepared = prepare_data(config, found.path)
    section = config.adapter
    head = trains_head(section, prepared.task)
    adapter = AdapterSpec(
        section.rank, section.alpha, section.targets, section.patch_embedding, head
    )
    part = (found.path, prepared.task, config.model.cut, adapter)
    classes = len(prepared.data.class_names)
    parts = Parts(
        prepared.task,
        load_device_part(*part, classes=classes),
        load_server_part(*part, classes=classes),
    )
    samples = prepared.data.train
    plan = BatchPlan(prepared.parts[0], config.training.batch_size, config.seed, 0)

    def batches() -> Iterator[Batch]:
        for step in range(warm_steps + kept_steps):
            _LOG.info(f"step {step + 1} of {warm_steps + kept_steps}")
            yield prepared.batches.make(samples, plan.indices(step))

    made = crossings(parts, batches(), config.seed, config.optimizer.learning_rate)
    kept = [crossing for step, crossing in enumerate(made) if step >= warm_steps]
    return Probe(
        parts,
        tuple(kept),
        f"{config.model.name} cut after block {config.model.cut}, {config.data.name}, "
        f"{warm_steps} local steps trained",
    )
