"""What does training the device part bring, and when does it earn its downlink?

The paper's scheme sends a gradient down for each mini-batch and an adapter up and down in each
round, so that blocks below the cut may be trained too. Each task here is trained through the codec
`best`, three ways in equal steps of equal samples, and once in more:

* `trained`: `sft`, both parts.
* `frozen`: the device part stays as it was pretrained; only activations and labels are sent.
* `warm`: as `trained` in the first round, then frozen as it is by then.
* `frozen, longer`: three times the rounds; a round without a downlink is much shorter.

Tasks are of different distance from what the model was pretrained on: photographs of clothes, the
same inverted, the same with all pixels permuted, drawn icons, small photographs; and texts that are
classified or continued. Cuts are after about 1, 4, 8 and 10 twelfths of the blocks.

    nice python experiments/device_part.py --cifar100 FOLDER   # CIFAR-100's binary files
    python experiments/device_part.py --table > experiments/device_part.md

Wall time: 15 to 50 s of one core a run, the first seed of everything some fifty minutes; each
result is appended to `device_part.jsonl` at once, and what is there is not run again. All of seed 0
comes first. Expected numbers: the committed `device_part.md`.

Seconds are simulated, on the package's default channel and devices, adapters sent as float32. A
target is what 95 % of the trained run's gain comes to, between evaluations a line; the weights of
the device part, which are sent once and alike in all, are counted apart.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from cutlayer.config.schema import Config
from cutlayer.data.assets.catalogue import CATALOGUE, cache_root, get_asset
from cutlayer.data.image_sets import read_cifar100
from cutlayer.data.samples import ARRAY_FILE
from cutlayer.errors import PacketError
from cutlayer.jobs.prepare import prepare
from cutlayer.rounds.schemes import Phase
from cutlayer.training.evaluation import Evaluation, evaluate
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.state import Setup

Result: TypeAlias = dict[str, Any]
Settings: TypeAlias = dict[str, Any]
Arrays: TypeAlias = dict[str, np.ndarray]

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1, 2)
BEFORE = "before training"
TRAINED, FROZEN, WARM, LONGER = "trained", "frozen", "warm", "frozen, longer"
VARIANTS: dict[str, Settings] = {
    TRAINED: {"device_part": "trained"},
    FROZEN: {"device_part": "frozen"},
    WARM: {"device_part": {"name": "warm", "rounds": 1}},
    LONGER: {"device_part": "frozen", "times": 3},
}
GAIN_SHARE = 0.95
TEST_SAMPLES = 200
# twelfths of the blocks below the cuts
DEPTHS = (1, 4, 8, 10)

COMMON: Settings = {
    "scheme": "sft",
    "adapter_codec": "none",
    "partition": "iid",
    "adapter": {"rank": 8, "alpha": 8},
    "devices": {"count": 2, "memory_mib": None},
    "codec": "best",
    "threads": 1,
}


@dataclass(frozen=True)
class TrainedTask:
    """Settings of a task, where its model may be cut, and what its data are called in the table."""

    title: str
    cuts: tuple[int, ...]
    blocks: int
    settings: Settings

    @property
    def perplexity(self) -> bool:
        """Whether its score is a perplexity, of which less is better."""
        return self.settings["model"] == "smollm2"


def images(title: str, data: str, learning_rate: float, **training: int) -> TrainedTask:
    """DINOv2-small at 56 px, 17 tokens an image."""
    settings = {
        "model": "dinov2-small",
        "data": {
            "name": data,
            "train_samples": 2400,
            "test_samples": TEST_SAMPLES,
            "image_size": 56,
        },
        "training": {"rounds": 3, "local_steps": 8, "batch_size": 8, **training},
        "optimizer": {"name": "adamw", "learning_rate": learning_rate},
    }
    return TrainedTask(title, (1, 4, 8, 10), 12, settings)


def texts(
    title: str, data: str, learning_rate: float, max_tokens: int, **training: int
) -> TrainedTask:
    """MiniLM, a class for each text."""
    settings = {
        "model": "minilm",
        "data": {
            "name": data,
            "train_samples": 2400,
            "test_samples": TEST_SAMPLES,
            "max_tokens": max_tokens,
            # a mail has a NUL character
            "on_bad_sample": "skip",
        },
        "training": {"rounds": 3, "local_steps": 8, "batch_size": 8, **training},
        "optimizer": {"name": "adamw", "learning_rate": learning_rate},
    }
    return TrainedTask(title, (1, 2, 4, 5), 6, settings)


def language(title: str, learning_rate: float, **data: Any) -> TrainedTask:
    """SmolLM2, the next token."""
    settings = {
        "model": "smollm2",
        "data": {"train_samples": 96, "test_samples": 16, "max_tokens": 48, **data},
        "training": {"rounds": 3, "local_steps": 4, "batch_size": 2},
        "optimizer": {"name": "adamw", "learning_rate": learning_rate},
    }
    return TrainedTask(title, (3, 10, 20, 25), 30, settings)


# as the example `arithmetic` has it
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INVERTED, PERMUTED, ICONS, CIFAR100 = "inverted", "permuted", "icons", "cifar-100"
# the runs are too short for more: some ten to forty images of each class are seen in one
ICON_CLASSES, CIFAR_CLASSES = 40, 20
TASKS: dict[str, TrainedTask] = {
    "clothes": images("Fashion-MNIST", "fashion-mnist", 1e-3),
    INVERTED: images("Fashion-MNIST, inverted", INVERTED, 1e-3),
    PERMUTED: images("Fashion-MNIST, pixels permuted", PERMUTED, 1e-3),
    ICONS: images(f"icons, {ICON_CLASSES} of 200 classes", ICONS, 1e-3),
    CIFAR100: images(f"CIFAR-100, {CIFAR_CLASSES} of 100 classes", CIFAR100, 1e-3),
    "glosses": texts("WordNet glosses, 19 classes", "wordnet-glosses", 3e-3, 24),
    "spam": texts("spam", "spam-assassin", 1e-3, 48, local_steps=4),
    "brown": language("Brown corpus", 2e-3, name="brown"),
    "arithmetic": language(
        "arithmetic", 3e-3, name="arithmetic", max_tokens=96, chat_template=CHAT_TEMPLATE
    ),
}


def fingerprint(task: str, cut: int, variant: str) -> str:
    """Changes with any setting, so that results of old settings are not mistaken for new ones."""
    text = json.dumps([COMMON, TASKS[task].settings, cut, VARIANTS.get(variant)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- one run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folders:
    """Where the data are that are no packaged set: what is made of one, and what was given."""

    made: Path
    cifar100: Path | None

    def name(self, data: str) -> str:
        """What the configuration calls these data."""
        if data not in (INVERTED, PERMUTED, ICONS, CIFAR100):
            return data
        folder = self.made / data
        if not folder.exists():
            folder.mkdir()
            np.savez(folder / ARRAY_FILE, **self._arrays(data))
        return str(folder)

    def _arrays(self, data: str) -> Arrays:
        if data == CIFAR100:
            assert self.cifar100 is not None
            pair = read_cifar100(self.cifar100)
            arrays = {"class_names": np.array(pair.class_names)}
            for split, samples in (("train", pair.train), ("test", pair.test)):
                images = [samples.read(index) for index in range(len(samples))]
                arrays[f"{split}_images"] = np.stack(images)
                arrays[f"{split}_labels"] = samples.labels
            return some_classes(arrays, range(CIFAR_CLASSES))
        source = "icons-200" if data == ICONS else "fashion-mnist"
        with np.load(get_asset(CATALOGUE[source], cache_root()) / ARRAY_FILE) as file:
            arrays = dict(file)
        if data == ICONS:
            counts = np.bincount(arrays["test_labels"], minlength=len(arrays["class_names"]))
            most = np.argsort(-counts, kind="stable")[:ICON_CLASSES]
            return some_classes(arrays, sorted(most.tolist()))
        return repainted(arrays, data)


def some_classes(arrays: Arrays, classes: Sequence[int]) -> Arrays:
    """The samples of these classes alone, renumbered in this order."""
    chosen = np.array(classes)
    arrays = {**arrays, "class_names": arrays["class_names"][chosen]}
    for split in ("train", "test"):
        labels = arrays[f"{split}_labels"]
        kept = np.isin(labels, chosen)
        arrays[f"{split}_images"] = arrays[f"{split}_images"][kept]
        arrays[f"{split}_labels"] = np.searchsorted(chosen, labels[kept])
    return arrays


def repainted(arrays: Arrays, how: str) -> Arrays:
    """The images inverted, or their pixels in one other order, the same for all."""
    arrays = dict(arrays)
    for split in ("train_images", "test_images"):
        pixels = arrays[split]
        if how == INVERTED:
            arrays[split] = 255 - pixels
        else:
            order = np.random.default_rng(0).permutation(pixels[0].size)
            arrays[split] = pixels.reshape(len(pixels), -1)[:, order].reshape(pixels.shape)
    return arrays


def config_of(task: str, cut: int, variant: str, seed: int, folders: Folders) -> Config:
    """The run's configuration."""
    settings = TASKS[task].settings
    data = {**settings["data"], "name": folders.name(settings["data"]["name"])}
    model = {"name": settings["model"], "cut": cut}
    own = dict(VARIANTS.get(variant, {}))
    training = dict(settings["training"])
    training["rounds"] *= own.pop("times", 1)
    changed = {"model": model, "data": data, "training": training, "seed": seed}
    return Config.model_validate({"scheme": "sft", **COMMON, **settings, **own, **changed})


def run(task: str, cut: int, variant: str, seed: int, folders: Folders) -> Result:
    """Train and evaluate after every round, nothing compressed; one line of the results."""
    begun_s = time.process_time()
    config = config_of(task, cut, variant, seed, folders)
    setup = prepare(config).setup
    measured = before(setup) if variant == BEFORE else train(setup, config.training.rounds)
    known = {"task": task, "cut": cut, "variant": variant, "seed": seed}
    own = {"settings": fingerprint(task, cut, variant), **measured}
    return {**known, **own, "cpu_s": round(time.process_time() - begun_s, 1)}


def before(setup: Setup) -> Result:
    """The score of what training begins with, which no cut changes."""
    return {"score": score_of(evaluate(setup.training, setup.server, initial_state(setup)), setup)}


def score_of(evaluation: Evaluation, setup: Setup) -> float:
    """Accuracy [%], or perplexity."""
    score = evaluation.score(setup.training.task)
    return score.value if score.measure == "perplexity" else 100 * score.value


def train(setup: Setup, rounds: int) -> Result:
    """Score, seconds and bytes round by round; the weights' seconds apart."""
    state = initial_state(setup)
    scores, losses, seconds, weights_s = [], [], [], 0.0
    sent: dict[str, int] = {}
    try:
        for number in range(rounds):
            outcome = Round(setup, state).play()
            state = outcome.state
            own_s = weights_seconds(outcome) if number == 0 else 0.0
            weights_s += own_s
            seconds.append(outcome.timeline.delay_s - own_s)
            for payload, count in outcome.round_costs.bytes_by_payload().items():
                sent[payload] = sent.get(payload, 0) + count
            losses.append(outcome.train_loss)
            scores.append(score_of(evaluate(setup.training, setup.server, state), setup))
    except PacketError as error:  # activations or gradients that are not finite
        return {"diverged": str(error)}
    return {
        "scores": scores,
        "losses": losses,
        "seconds": seconds,
        "weights_s": weights_s,
        "bytes": sent,
    }


def weights_seconds(outcome: RoundOutcome) -> float:
    """How much of a first round is the weights of the device part on their way: its share of what
    is broadcast."""
    sent = outcome.round_costs.bytes_by_payload()
    broadcast = outcome.timeline.phase_seconds(0)[Phase.MODEL_DISTRIBUTION]
    weights = sent["weights"]
    return broadcast * weights / (weights + sent.get("adapter_down", 0))


# --- the queue -----------------------------------------------------------------------------------

# what decides most comes first; the cut by its place in a task's
_ORDER = (
    *((3, variant) for variant in (TRAINED, FROZEN)),
    *((1, variant) for variant in (TRAINED, FROZEN)),
    *((3, variant) for variant in (LONGER, WARM)),
    *((2, variant) for variant in (TRAINED, FROZEN)),
    *((0, variant) for variant in (TRAINED, FROZEN)),
    *((place, variant) for place in (1, 2, 0) for variant in (WARM, LONGER)),
)


def read_results(path: Path) -> list[Result]:
    """Results of the present settings."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        line
        for line in lines
        if line["task"] in TASKS
        and line["settings"] == fingerprint(line["task"], line["cut"], line["variant"])
    ]


Unit: TypeAlias = tuple[str, int, str, int]


def wanted(seeds: Sequence[int] = SEEDS) -> Iterator[Unit]:
    """Task, cut, variant and seed of every run, all of the first seed first."""
    for seed in seeds:
        for task, own in TASKS.items():
            yield task, own.cuts[0], BEFORE, seed
        for place, variant in _ORDER:
            for task, own in TASKS.items():
                yield task, own.cuts[place], variant, seed


def missing(results: Sequence[Result]) -> list[Unit]:
    """What is still to run."""
    done = {unit_of(result) for result in results}
    return [unit for unit in wanted() if unit not in done]


def unit_of(result: Result) -> Unit:
    """What a line is the result of."""
    return result["task"], result["cut"], result["variant"], result["seed"]


# --- the tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What is known of a task at a cut: `variants` by name and seed, `before` by seed."""

    task: TrainedTask
    cut: int
    before: Mapping[int, float]
    variants: Mapping[str, Mapping[int, Result]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those for which it was trained and frozen."""
        both = self.variants[TRAINED].keys() & self.variants[FROZEN].keys()
        return tuple(sorted(both & self.before.keys()))

    def score(self, variant: str, seed: int) -> float:
        """After the last round; NaN if it diverged."""
        return float(self.variants[variant][seed].get("scores", [math.nan])[-1])

    def brings(self, seed: int) -> float:
        """What training the device part brings: points of accuracy, or per cent of perplexity."""
        trained, frozen = (self.score(variant, seed) for variant in (TRAINED, FROZEN))
        return 100 * (frozen / trained - 1) if self.task.perplexity else trained - frozen

    @property
    def error(self) -> float:
        """The standard error of the mean of `brings`; NaN with one seed."""
        values = [self.brings(seed) for seed in self.seeds]
        return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan

    def target(self, seed: int) -> float:
        """The score at which most of the trained run's gain is made."""
        begin = self.before[seed]
        return begin + GAIN_SHARE * (self.score(TRAINED, seed) - begin)

    def seconds_to_target(self, variant: str, seed: int) -> float | None:
        """Simulated seconds, between evaluations by a line; None: not in this run."""
        target, last, elapsed_s = self.target(seed), self.before[seed], 0.0
        result = self.variants[variant][seed]
        better = -1 if self.task.perplexity else 1
        for score, round_s in zip(result["scores"], result["seconds"], strict=True):
            if better * (score - target) >= 0:
                part = (target - last) / (score - last) if score != last else 0.0
                return float(elapsed_s + max(part, 0.0) * round_s)
            last, elapsed_s = score, elapsed_s + round_s
        return None

    def each(self, of: Callable[[str, int], float | None]) -> str:
        """The mean over the seeds of each variant; a dash where one seed has none."""
        texts = []
        for name, results in self.variants.items():
            values = [of(name, seed) for seed in self.seeds if seed in results]
            known = [value for value in values if value is not None]
            texts.append(f"{mean(known):.1f}" if known and len(known) == len(values) else "-")
        return " / ".join(texts)

    def seconds(self, variant: str, seed: int) -> float:
        """Simulated seconds of the whole run."""
        return float(sum(self.variants[variant][seed]["seconds"]))

    def up_mb(self, variant: str, seed: int) -> float:
        """Megabytes of the whole run's uplink."""
        return self._sent_mb(variant, seed, ("activation", "labels", "adapter_up"))

    def down_mb(self, variant: str, seed: int) -> float:
        """Megabytes of the whole run's downlink, without the weights of the device part."""
        return self._sent_mb(variant, seed, ("gradient", "adapter_down"))

    def _sent_mb(self, variant: str, seed: int, payloads: Sequence[str]) -> float:
        sent = self.variants[variant][seed]["bytes"]
        return float(sum(sent.get(payload, 0) for payload in payloads)) / 1e6

    def earns(self, seed: int) -> bool | None:
        """Whether the target is reached sooner with the device part trained than any other way;
        None where frozen for longer might do it and was not run."""
        own_s = self.seconds_to_target(TRAINED, seed)
        if own_s is None or not self.gains(seed):
            return False
        others = [name for name in self.variants if name != TRAINED]
        found = [self.seconds_to_target(v, seed) for v in others if seed in self.variants[v]]
        if any(other_s is not None and other_s <= own_s for other_s in found):
            return False
        return True if seed in self.variants[LONGER] else None

    def gains(self, seed: int) -> bool:
        """Whether the trained run ends better than it began."""
        better = self.before[seed] - self.score(TRAINED, seed)
        return better > 0 if self.task.perplexity else better < 0


def cells_of(results: Sequence[Result]) -> list[Cell]:
    """Every task at every cut that was trained and frozen for a seed."""
    by_unit = {unit_of(result): result for result in results if "diverged" not in result}

    def of(task: str, cut: int, variant: str) -> dict[int, Result]:
        units = ((task, cut, variant, seed) for seed in SEEDS)
        return {unit[3]: by_unit[unit] for unit in units if unit in by_unit}

    cells = [
        Cell(
            own,
            cut,
            {seed: one["score"] for seed, one in of(task, own.cuts[0], BEFORE).items()},
            {variant: of(task, cut, variant) for variant in VARIANTS},
        )
        for task, own in TASKS.items()
        for cut in own.cuts
    ]
    return [cell for cell in cells if cell.seeds]


def tables(results: Sequence[Result]) -> str:
    """Markdown: what training the device part brings, by task and depth of the cut; what it comes
    to in seconds and bytes; what is not run yet."""
    cells = cells_of(results)
    parts = [
        "## What training the device part brings",
        explained(),
        matrix(cells),
        "## Scores, bytes and seconds",
        f"Target: {100 * GAIN_SHARE:.0f} % of the trained run's gain. Seconds are simulated and"
        " without the weights of the device part, which all get once. "
        + " / ".join(VARIANTS)
        + "; means over the seeds; a dash: not run, or not reached.",
        details(cells),
    ]
    rest = missing(results)
    diverged = [result for result in results if "diverged" in result]
    if diverged:
        parts.append("Diverged: " + "; ".join(_words(unit_of(one)) for one in diverged) + ".")
    if rest:
        parts.append(_not_run(rest))
    return "\n\n".join(parts) + "\n"


def explained() -> str:
    """What a number of the matrix is."""
    test_error = 100 * math.sqrt(0.5 / TEST_SAMPLES)
    return (
        "Trained less frozen, after equal steps: points of accuracy, or per cent of perplexity for"
        " the Brown corpus and arithmetic, seed by seed; mean ± standard error over the seeds,"
        f" where there are several. With one, {TEST_SAMPLES} test samples leave it uncertain by up"
        f" to {test_error:.0f} points. **Bold**: in most seeds the trained run's target"
        f" ({100 * GAIN_SHARE:.0f} % of its gain) is reached in fewer simulated seconds with the"
        " device part trained than in any other way; a question mark: equal steps frozen do not"
        " reach it, and frozen for longer was not run."
    )


def _words(unit: Unit) -> str:
    task, cut, variant, seed = unit
    return f"{TASKS[task].title}, cut {cut}, {variant}, seed {seed}"


def _not_run(rest: Sequence[Unit]) -> str:
    counts = [
        f"seed {seed}: {sum(unit[3] == seed for unit in rest)} of {len(list(wanted([seed])))} runs"
        for seed in SEEDS
    ]
    return "Not run yet: " + "; ".join(counts) + "."


def matrix(cells: Sequence[Cell]) -> str:
    """A row a task, a column a depth."""
    by_place = {(cell.task.title, cell.task.cuts.index(cell.cut)): cell for cell in cells}
    heads = [f"cut after {depth}/12" for depth in DEPTHS]
    lines = ["| " + " | ".join(["task", *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
    for task in TASKS.values():
        found = [by_place.get((task.title, place)) for place in range(len(DEPTHS))]
        if any(found):
            row = " | ".join("" if cell is None else _brought(cell) for cell in found)
            lines.append(f"| {task.title} | {row} |")
    return "\n".join(lines)


def _brought(cell: Cell) -> str:
    value = mean(cell.brings(seed) for seed in cell.seeds)
    error = "" if math.isnan(cell.error) else f" ± {cell.error:.1f}"
    unit = " %" if cell.task.perplexity else ""
    text = f"{value:+.1f}{error}{unit}"
    verdict = mostly_earns(cell)
    return f"{text} ?" if verdict is None else f"**{text}**" if verdict else text


def mostly_earns(cell: Cell) -> bool | None:
    """Whether training the device part earns its downlink in most seeds; None: not known."""
    known = [verdict for seed in cell.seeds if (verdict := cell.earns(seed)) is not None]
    return 2 * sum(known) > len(known) if known else None


def details(cells: Sequence[Cell]) -> str:
    """A row a task and cut."""
    heads = ["task", "cut", "before", "score", "up [MB]", "down [MB]", "seconds", "to the target"]
    lines = ["| " + " | ".join([*heads, "seeds"]) + " |", "|---" * (len(heads) + 1) + "|"]
    for cell in cells:
        columns = [
            f"{mean(cell.before[seed] for seed in cell.seeds):.1f}",
            *map(cell.each, (cell.score, cell.up_mb, cell.down_mb, cell.seconds)),
            cell.each(cell.seconds_to_target),
            str(len(cell.seeds)),
        ]
        lines.append(f"| {cell.task.title} | {cell.cut} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


# --- the command ---------------------------------------------------------------------------------


def main() -> None:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--variant", choices=(BEFORE, *VARIANTS), action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--cifar100", type=Path, help="folder of CIFAR-100's binary files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables; run nothing")
    given = parser.parse_args()
    results = read_results(given.output)
    if given.table:
        print(tables(results), end="")
        return
    tasks = given.task or list(TASKS)
    if given.cifar100 is None and CIFAR100 in tasks:
        parser.error("give --cifar100 FOLDER, or only a --task that needs none")
    asked = given.variant or (BEFORE, *VARIANTS), given.seed or SEEDS
    with TemporaryDirectory() as made:
        folders = Folders(Path(made), given.cifar100)
        for unit in missing(results):
            if unit[0] in tasks and unit[2] in asked[0] and unit[3] in asked[1]:
                print(_words(unit), flush=True)
                result = run(*unit, folders)
                with given.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
