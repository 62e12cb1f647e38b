"""The data of a run: found, drawn, checked, made into batches and dealt to devices."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cutlayer.config.schema import Config, PartitionSection
from cutlayer.data.batches import BatchMaker
from cutlayer.data.check import check_data
from cutlayer.data.images import ImageBatches, normalisation
from cutlayer.data.load import load_data
from cutlayer.data.partition import draw_subset, partition_dirichlet, partition_iid
from cutlayer.data.samples import DataSet, Samples, Subset
from cutlayer.data.text import BlockBatches, Blocks, TextBatches
from cutlayer.model.tokenizer import load_tokenizer
from cutlayer.spec import Task

# one stream of the seed for each draw
_TRAIN, _TEST, _PARTITION = range(101, 104)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data ready to train on: `parts[n]` are device n's samples of the training split."""

    data: DataSet
    task: Task
    batches: BatchMaker
    parts: tuple[Int64[np.ndarray, "_"], ...]
    skipped: int


def prepare_data(config: Config, model: Path, say: Callable[[str], None]) -> Prepared:
    """Everything about the data that `config` decides, for the model in the folder `model`.

    Raises DataError or AssetError for data that cannot be found, read or dealt.
    """
    section = config.data
    data = load_data(
        section.name,
        task=section.task,
        text_field=section.text_field,
        label_field=section.label_field,
        test_fraction=section.test_fraction,
        seed=config.seed,
        say=say,
    )
    say(f"data {section.name}: from {data.source}, {data.location}")
    if data.task == "causal-lm":
        data, skipped = _checked(data, config, say)
        cut, batches = make_blocks(model, section.max_tokens)
        data = replace(data, train=cut(data.train), test=cut(data.test))
        data = _drawn(data, config, say)
    else:
        data, skipped = _checked(_drawn(data, config, say), config, say)
        batches = make_batches(data.task, config.data.image_size, config.data.max_tokens, model)
    parts = _deal(config.partition, data.train, config.devices.count, config.seed)
    return Prepared(data, data.task, batches, parts, skipped)


def _checked(data: DataSet, config: Config, say: Callable[[str], None]) -> tuple[DataSet, int]:
    kept, bad = check_data(data, config.data.on_bad_sample)
    if bad:
        say(f"skipped {len(bad)} bad samples, the first: {bad[0].title}")
    return kept, len(bad)


def _drawn(data: DataSet, config: Config, say: Callable[[str], None]) -> DataSet:
    """At most `train_samples` and `test_samples` of the splits, balanced over classes."""
    balanced = data.task != "causal-lm"

    def draw(samples: Samples, wanted: int | None, name: str, stream: int) -> Samples:
        if wanted is None or wanted == len(samples):
            return samples
        if wanted > len(samples):
            say(f"{data.name} has {len(samples)} {name} samples, {wanted} were asked for: all used")
            return samples
        rng = np.random.default_rng([stream, config.seed])
        return Subset(samples, draw_subset(samples.labels, wanted, rng, balanced))

    return replace(
        data,
        train=draw(data.train, config.data.train_samples, "training", _TRAIN),
        test=draw(data.test, config.data.test_samples, "test", _TEST),
    )


def make_batches(task: Task, image_size: int, max_tokens: int, model: Path) -> BatchMaker:
    """What makes mini-batches of images or texts for the model in a folder."""
    if task == "image-classification":
        mean, std = normalisation(model)
        return ImageBatches(image_size, mean, std)
    tokenizer = load_tokenizer(model, max_tokens)
    return TextBatches(tokenizer.tokenize, max_tokens, tokenizer.pad_id)


def make_blocks(model: Path, max_tokens: int) -> tuple[Callable[[Samples], Samples], BatchMaker]:
    """What cuts documents into blocks for a language model in a folder, and makes mini-batches."""
    tokenizer = load_tokenizer(model, None)

    def cut(samples: Samples) -> Samples:
        return Blocks(samples, tokenizer.tokenize, max_tokens, tokenizer.separator_id)

    return cut, BlockBatches(tokenizer.pad_id)


def _deal(
    section: PartitionSection, samples: Samples, devices: int, seed: int
) -> tuple[Int64[np.ndarray, "_"], ...]:
    rng = np.random.default_rng([_PARTITION, seed])
    match section.name:
        case "iid":
            return partition_iid(samples.labels, devices, rng)
        case "dirichlet":
            return partition_dirichlet(samples.labels, devices, section.alpha, rng)
