"""The data of a run: found, drawn, checked, made into batches and dealt to devices."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final, get_args

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedConfig

from cutlayer.config.schema import (
    ColumnPartition,
    Config,
    DataSection,
    DirichletPartition,
    IidPartition,
    PartitionSection,
)
from cutlayer.config.section import PARTITIONS, PluginSection
from cutlayer.data.batches import (
    ImageBatches,
    Preprocessing,
    TextBatches,
    read_preprocessing,
)
from cutlayer.data.chats import texts_of
from cutlayer.data.check import (
    OnBad,
    asked_task,
    check_data,
    check_samples,
    check_sizes,
    class_of,
    known_task,
    other_task,
)
from cutlayer.data.find import HubSplits, find_data
from cutlayer.data.hub_data import read_dataset
from cutlayer.data.left_out import is_odd, left_out_sentence
from cutlayer.data.load import load_data, read_path
from cutlayer.data.partition import (
    PARTITION_ARGUMENTS,
    PreparedData,
    check_parts,
    draw_subset,
    partition_dirichlet,
    partition_groups,
    partition_iid,
)
from cutlayer.data.rows import TokenBatches
from cutlayer.data.samples import (
    UNKNOWN_LABEL,
    BatchMaker,
    Content,
    DataSet,
    ReadSettings,
    Samples,
    SplitPair,
    Subset,
    TextContent,
    Tokenize,
    alike_names,
)
from cutlayer.errors import DataError, UnsupportedModelError, column_listing, quoted
from cutlayer.jobs.plugins import call_plugin, find_plugin
from cutlayer.jobs.row_making import RowMaking, row_making
from cutlayer.model.inputs import Tokenizer, image_step, load_tokenizer, token_limit
from cutlayer.model.tasks import read_config, task_class, unread_padding
from cutlayer.net.wire.messages import Terms
from cutlayer.spec import Task, TextFormat

_LOG = logging.getLogger(__name__)

# one stream of the seed for each draw
_TRAIN, _TEST, _PARTITION, _VALIDATION, _WATCHED = range(101, 106)
# texts whose tokens are looked at, and how far; from which share on the unknown ones are told
_PROBED, _PROBED_LETTERS, _ODD_SHARE = 256, 4000, 0.2
_FEW_CLASSES = 10  # so many may well have a sample or two each


def prepare_data(config: Config, model: Path, *, dealt: bool = True) -> PreparedData:
    """Everything about the data that `config` decides, for the model in the folder `model`.

    `dealt` False: of the training split only the names of its classes are needed, and it is neither
    read nor dealt, since devices have samples of their own; a validation split is taken from it
    all the same.

    Raises DataError or AssetError for data that cannot be found, read or dealt.
    """
    section, data = config.data, _found(config, model, dealt=dealt)
    _LOG.info(f"data {section.name}: from {data.source}, {data.location}")
    section.check_task(data.task)
    _refuse_other_task(config, data.task, model)
    _tell_found(data)
    held_out = config.evaluation.validation_fraction
    if not (dealt or held_out):
        data = replace(data, train=data.test)
    chat_template = None
    if data.task == "image-classification":
        # a picture is read to be checked: only those drawn are
        data, skipped = _checked(_drawn(data, config), config, None)
        batches: BatchMaker = image_batches(model, section.image_size)
        preprocessing = read_preprocessing(model)
        _LOG.info(_told_framing(preprocessing, section.image_size))
        if preprocessing.note is not None:
            _LOG.warning(preprocessing.note)
    elif data.task == "text-classification":
        tokenizer = load_tokenizer(model, section.max_tokens)
        data, broken = _checked(data, config, None)
        data, skipped = _checked(_drawn(data, config), config, tokenizer)
        skipped += broken
        batches = text_batches(tokenizer, section.max_tokens, model)
    else:
        tokenizer = load_tokenizer(model, None)
        making = row_making(section, data.reading, tokenizer)
        _LOG.info(making.title(data.reading))
        chat_template = making.chat_template
        data, skipped, batches = _as_rows(data, config, making)
    data, watched = _watched(data, config)
    if not dealt:
        data = replace(data, train=data.test)
    count = config.devices.count
    parts = (
        _deal(config.partition, data.train, count, config.seed)
        if dealt
        else (np.arange(len(data.train)),) * count
    )
    return PreparedData(data, data.task, batches, parts, skipped, watched, chat_template)


def _found(config: Config, model: Path, *, dealt: bool) -> DataSet:
    """The data set, once task and sizes are known to be such as the model takes."""
    section = config.data
    known = asked_task(section.task, section.format) or known_task(section.name)
    if known is not None:
        _refuse_other_task(config, known, model)
    own = read_config(model)
    named = f"the model in {model}"
    check_sizes(
        section.image_size, section.max_tokens, named, limit=token_limit(own), side=image_step(own)
    )
    return load_data(
        section.name,
        task=section.task,
        text_field=section.text_field,
        label_field=section.label_field,
        test_fraction=section.test_fraction,
        seed=config.seed,
        format=section.format,
        group_field=group_field(config.partition) if dealt else None,
    )


def _as_rows(data: DataSet, config: Config, making: RowMaking) -> tuple[DataSet, int, BatchMaker]:
    """A language model's data as rows of tokens, those that are used; how many were bad."""
    if making.packing == "blocks" and data.reading is None:
        data, skipped = _checked(data, config, making.tokenizer)
    else:
        data, skipped = _checked(data, config, None)
        _tell_if_odd(making.tokenizer, data)
        making.tell_unwritten(data.train)
    if making.packing == "none":  # a sample is a row: those drawn are enough
        data = _drawn(data, config)

    def rows(samples: Samples, name: str) -> tuple[Samples, int]:
        return making.rows(samples, config.data.on_bad_sample, f"{name} ")

    test, bad = rows(data.test, "test")
    train = test
    if not _is_one(data):
        train, more = rows(data.train, "training")
        bad += more
    data = replace(data, train=train, test=test)
    if making.packing != "none":
        data = _drawn(data, config)
    return data, skipped + bad, TokenBatches(making.tokenizer.pad_id)


def _refuse_other_task(config: Config, task: Task, model: Path) -> None:
    """Raises DataError where the model is for other tasks: before data are read or checked."""
    architecture = read_config(model)
    serves = [other for other in get_args(Task) if _serves(architecture, other)]
    if serves and task not in serves:
        raise other_task(config.model.name, serves, config.data.name, task)


def _serves(architecture: PreTrainedConfig, task: Task) -> bool:
    try:
        task_class(architecture, task)
    except UnsupportedModelError:
        return False
    return True


def _tell_found(data: DataSet) -> None:
    """Everything that was found, and which classes look like one, or like none."""
    count = len(data.train) + len(data.test)
    _LOG.log(
        logging.WARNING if any(map(is_odd, data.left_out)) else logging.INFO,
        f"found {len(data.train)} training and {len(data.test)} test samples; "
        f"{left_out_sentence(data.left_out)}",
    )
    if data.task == "causal-lm":
        return
    for one, other in alike_names(data.class_names):
        _LOG.warning(
            f"classes {quoted(one)} and {quoted(other)} look alike and stay"
            " separate: is that intended?"
        )
    classes = len(np.union1d(data.train.labels, data.test.labels))
    if classes > max(_FEW_CLASSES, count / 2):
        _LOG.warning(
            f"{count} samples have {classes} classes, such as"
            f" {column_listing(data.class_names[:3])}: are the labels quantities, or names of"
            " samples?"
        )


def _told_framing(preprocessing: Preprocessing, side: int) -> str:
    filter_name = preprocessing.resample.name.lower()
    own = f"; the model's own preprocessing: {preprocessing.framing}"
    return (
        f"images: the central square, resized to {side} px ({filter_name})"
        f"{own if preprocessing.framing else ''}"
    )


def _checked(data: DataSet, config: Config, tokenizer: Tokenizer | None) -> tuple[DataSet, int]:
    tokenize = None if tokenizer is None else tokenizer.tokenize
    kept, bad = check_data(data, config.data.on_bad_sample, tokenize)
    if bad:
        _LOG.warning(f"skipped {len(bad)} bad samples, the first: {bad[0].title}")
    if tokenizer is not None:
        _tell_if_odd(tokenizer, kept)
    return kept, len(bad)


def _tell_if_odd(tokenizer: Tokenizer, data: DataSet) -> None:
    if tokenizer.note is not None:
        _LOG.warning(tokenizer.note)
    unknown = check_words(tokenizer, data.train, data.name)
    if unknown > _ODD_SHARE:
        _LOG.warning(
            f"{unknown:.0%} of the tokens of {data.name} are unknown to the model's"
            " tokenizer: is it another model's, or another language's?"
        )


def check_words(tokenizer: Tokenizer, samples: Samples, name: str) -> float:
    """The part of the tokens of some texts that the tokenizer does not know.

    Raises DataError where that is all of them: nothing could be learned.
    """
    step = max(1, len(samples) // _PROBED)
    contents = (samples.read(index) for index in range(0, len(samples), step))
    texts = [texts_of(content) for content in contents if isinstance(content, TextContent)]
    unknown = tokenizer.unknown_share([text[:_PROBED_LETTERS] for text in texts])
    if unknown == 1.0:
        raise DataError(
            f"the model's tokenizer knows no word of {name}, every token is the unknown one: take"
            " the tokenizer that belongs to the model, or a model of this language"
        )
    return unknown


def _drawn(data: DataSet, config: Config) -> DataSet:
    """At most `train_samples` and `test_samples` of the splits, balanced over classes."""
    balanced = data.task != "causal-lm"

    def draw(samples: Samples, wanted: int | None, name: str, stream: int) -> Samples:
        if wanted is None or wanted == len(samples):
            return samples
        if wanted > len(samples):
            _LOG.info(
                f"{data.name} has {len(samples)} {name} samples, {wanted} were asked for: all used"
            )
            return samples
        rng = np.random.default_rng([stream, config.seed])
        return Subset(samples, draw_subset(samples.labels, wanted, rng, balanced))

    test = draw(data.test, config.data.test_samples, "test", _TEST)
    if _is_one(data):
        return replace(data, train=test, test=test)
    train = draw(data.train, config.data.train_samples, "training", _TRAIN)
    return replace(data, train=train, test=test)


def _watched(data: DataSet, config: Config) -> tuple[DataSet, Samples | None]:
    """The data without the samples that are held out of the training split, and what rounds are
    evaluated on: None for the test split, all of it."""
    fraction, wanted = config.evaluation.validation_fraction, config.evaluation.samples
    balanced, watched = data.task != "causal-lm", data.test
    if fraction:
        count = round(fraction * len(data.train))
        if not 1 <= count < len(data.train):
            raise DataError(
                f"evaluation.validation_fraction {fraction:g} holds out {count} of"
                f" {len(data.train)} training samples: choose a fraction that leaves some on both"
                " sides, or more data.train_samples"
            )
        rng = np.random.default_rng([_VALIDATION, config.seed])
        taken = draw_subset(data.train.labels, count, rng, balanced)
        rest = np.setdiff1d(np.arange(len(data.train)), taken)
        watched = Subset(data.train, taken)
        data = replace(data, train=Subset(data.train, rest))
    if wanted is not None and wanted < len(watched):
        rng = np.random.default_rng([_WATCHED, config.seed])
        watched = Subset(watched, draw_subset(watched.labels, wanted, rng, balanced))
    return data, None if watched is data.test else watched


def _is_one(data: DataSet) -> bool:
    """Whether the test split stands for the training split, too."""
    return data.train is data.test


def image_batches(model: Path, image_size: int) -> BatchMaker:
    """What makes mini-batches of images for the model in a folder."""
    read = read_preprocessing(model)
    return ImageBatches(image_size, read.mean, read.std, read.levels, read.resample)


def text_batches(tokenizer: Tokenizer, max_tokens: int, model: Path) -> BatchMaker:
    """What makes mini-batches of texts with a class each."""
    unread = unread_padding(read_config(model))
    return TextBatches(tokenizer.tokenize, max_tokens, tokenizer.pad_id, unread)


def group_field(section: PartitionSection) -> str | None:
    """The column by which samples are dealt."""
    return section.column if isinstance(section, ColumnPartition) else None


def _deal(
    section: PartitionSection, samples: Samples, devices: int, seed: int
) -> tuple[Int64[np.ndarray, "_"], ...]:
    rng = np.random.default_rng([_PARTITION, seed])
    match section:
        case IidPartition():
            return partition_iid(samples.labels, devices, rng)
        case DirichletPartition():
            return partition_dirichlet(samples.labels, devices, section.alpha, rng)
        case ColumnPartition():
            assert samples.groups is not None, "whoever reads the samples asks for the column"
            return partition_groups(samples.groups, devices, rng)
        case PluginSection():
            found = find_plugin("partition", section, PARTITIONS)
            of_the_run = dict(zip(PARTITION_ARGUMENTS, (samples.labels, devices, rng), strict=True))
            made = call_plugin("partition", section, found, of_the_run)
            return check_parts(made, len(samples.labels), devices)


# A device's own samples, made ready on the terms of a run.
#
# Knows paths and terms; the forms that data may have are `data.load`'s.


_LETTERS = 40


@dataclass(frozen=True)
class OwnData:
    """Where a device's samples are: a path in any form that `data.name` may have, columns of a
    table, and what to do about samples that cannot be read."""

    path: Path
    text_field: str = "text"
    label_field: str = "label"
    on_bad_sample: OnBad = "stop"
    format: TextFormat | Literal["auto"] = "auto"


@final
class _Renamed(Samples):
    """Samples whose classes are numbered as another data set numbers them."""

    def __init__(self, samples: Samples, places: Sequence[int]) -> None:
        index = np.array(places, np.int64)
        known = samples.labels != UNKNOWN_LABEL
        self.labels = np.where(known, index[samples.labels], UNKNOWN_LABEL)
        self._samples = samples

    def read(self, index: int) -> Content:
        return self._samples.read(index)

    def raw(self, index: int) -> bytes:
        return self._samples.raw(index)

    def where(self, index: int) -> str:
        return self._samples.where(index)


def check_path(path: Path) -> None:
    """Raises DataError if there is nothing: to be found before a token is used up."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder; give this device's samples as data", thing="data"
        )


def check_own(own: OwnData, task: Task, class_names: Sequence[str]) -> None:
    """Whether the data are of this task, and have no class but these: to be found before a token is
    used up or a part fetched. Raises as `own_samples`."""
    _places(own, _read(own, task).class_names, task, class_names)


def own_samples(
    own: OwnData, terms: Terms, section: DataSection, model: Path
) -> tuple[Samples, BatchMaker]:
    """The samples of the training split, or all where there is none but that, in their order.

    `section`: sizes of images and texts. `model`: the folder with the part's tokenizer or
    preprocessing. Raises DataError for data that cannot be read, are for another task, or have a
    class that the run does not know.
    """
    pair = _read(own, terms.task)
    unused = f", {len(pair.test)} of a test split are not used" if len(pair.test) else ""
    _LOG.info(
        "%s: %d samples%s; %s", own.path, len(pair.train), unused, left_out_sentence(pair.left_out)
    )
    return _made_ready(own, pair, terms.task, terms.class_names, section, model)


def _made_ready(
    own: OwnData,
    pair: SplitPair,
    task: Task,
    class_names: Sequence[str],
    section: DataSection,
    model: Path,
) -> tuple[Samples, BatchMaker]:
    """The training split of a pair, for a model with these classes."""
    if task == "causal-lm":
        return _own_rows(own, pair, section, model)
    samples = _Renamed(pair.train, _places(own, pair.class_names, task, class_names))
    if task == "image-classification":
        kept = _usable(samples, len(class_names), own, None)
        return kept, image_batches(model, section.image_size)
    tokenizer = load_tokenizer(model, section.max_tokens)
    kept = _usable(samples, len(class_names), own, tokenizer.tokenize)
    check_words(tokenizer, kept, str(own.path))
    return kept, text_batches(tokenizer, section.max_tokens, model)


def _own_rows(
    own: OwnData, pair: SplitPair, section: DataSection, model: Path
) -> tuple[Samples, BatchMaker]:
    tokenizer = load_tokenizer(model, None)
    making = row_making(section, pair.reading, tokenizer)
    _LOG.info("%s: %s", own.path, making.title(pair.reading))
    bulk = making.packing == "blocks" and pair.reading is None
    tokenize = tokenizer.tokenize if bulk else None
    kept = _usable(pair.train, len(pair.class_names), own, tokenize)
    check_words(tokenizer, kept, str(own.path))
    rows, _ = making.rows(kept, own.on_bad_sample, "")
    return rows, TokenBatches(tokenizer.pad_id)


def _usable(samples: Samples, classes: int, own: OwnData, tokenize: Tokenize | None) -> Samples:
    kept, bad = check_samples(samples, classes, own.on_bad_sample, tokenize)
    if bad:
        _LOG.warning("skipped %d bad samples, the first: %s", len(bad), bad[0].title)
    return kept


def _read(own: OwnData, task: Task) -> SplitPair:
    check_path(own.path)
    asked = None if task == "image-classification" else task
    settings = ReadSettings(
        asked, own.text_field, own.label_field, test_fraction=None, format=own.format
    )
    pair, usual = read_path(own.path, settings)
    if (usual == "image-classification") != (task == "image-classification"):
        raise DataError(f"{own.path} is for {usual}, the run for {task}: name other data")
    return pair


def _places(
    own: OwnData, names: Sequence[str], task: Task, class_names: Sequence[str]
) -> list[int]:
    """The run's number of each own class."""
    if task == "causal-lm":
        return []
    known = {name: place for place, name in enumerate(class_names)}
    meant = {name: class_of(name, class_names) for name in names}
    unknown = sorted(name for name, found in meant.items() if found is None)
    if unknown and own.on_bad_sample == "stop":
        raise DataError(
            f"{own.path} has {len(unknown)} of {len(names)} classes that the run does not know,"
            f" such as {unknown[0][:_LETTERS]!r}; it knows"
            f" {', '.join(name[:_LETTERS] for name in class_names[:10])}"
        )
    return [UNKNOWN_LABEL if meant[name] is None else known[str(meant[name])] for name in names]


# Samples to try a trained model on.


@dataclass(frozen=True, eq=False)
class TrialSamples:
    """Samples, and what makes mini-batches of them. `answers`: rows of them have prompts and
    answers, whose tokens count."""

    name: str
    samples: Samples
    batches: BatchMaker
    answers: bool


def trial_samples(
    config: Config, name: str | None, model: Path, task: Task, class_names: Sequence[str]
) -> TrialSamples:
    """The test split of the data that a run has trained on (`name` None, or theirs), as it was
    evaluated; or other data of the task: their test split, or all where there is none.

    `model`: the folder of the model. Raises DataError, AssetError for data that cannot be found,
    read or used with this model.
    """
    section = config.data
    if name is None or name == section.name or _same_path(name, section.name):
        prepared = prepare_data(config, model, dealt=False)
        data, shown = prepared.data, section.name
        samples, batches, reading = data.test, prepared.batches, data.reading
    else:
        pair, shown = _found_pair(config, name, task), name
        if len(pair.test):
            pair = replace(pair, train=pair.test)
        own = OwnData(Path(name), on_bad_sample=section.on_bad_sample)
        samples, batches = _made_ready(own, pair, task, class_names, section, model)
        reading = pair.reading
    turns = reading is not None and section.loss_on != "all" and section.packing != "blocks"
    return TrialSamples(shown, samples, batches, turns)


def _same_path(one: str, other: str) -> bool:
    return Path(one).expanduser().absolute() == Path(other).expanduser().absolute()


def _found_pair(config: Config, name: str, task: Task) -> SplitPair:
    section, images = config.data, task == "image-classification"
    settings = ReadSettings(
        None if images else task,
        section.text_field,
        section.label_field,
        test_fraction=None,
        format=section.format,
    )
    found = find_data(name)
    if isinstance(found, HubSplits):
        pair, usual = read_dataset(found.splits, found.hub_id, settings)
    else:
        pair, usual = read_path(found.path, settings)
    if (usual == "image-classification") != images:
        raise DataError(f"{name} is for {usual}, what was trained for {task}: name other data")
    return pair
