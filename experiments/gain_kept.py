"""What part of training's gain is left when activations and gradients go through a codec?

Gain kept: what a run through a codec gains over the untrained adapters, as a part of what the same
run gains with float32 on the link; in points of accuracy (SmolLM2 on Brown: of perplexity;
arithmetic: of exact match). Rows first say whose doing a loss is: one direction coded and the other
not, a third of the basis or all of it, the quantiser or the truncation; then what was tried against
it, and what others send.

    nice python experiments/gain_kept.py            # what is not there yet, all of seed 0 first
    python experiments/gain_kept.py --table > experiments/gain_kept.md

Bits are those of packets that were really made, bases and means included; labels and adapters, the
same in all rows, are not counted. Two devices; test samples are the same for all seeds. SmolLM2's
products are in bfloat16 (`torch.autocast`, in all rows alike), which halves the wall time: one to
two minutes of one core a run. Every result is appended to `gain_kept.jsonl` at once. Expected
numbers: the committed `gain_kept.md`.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar, TypeAlias, final

import codec_accuracy
import language
import numpy as np
import torch
from torch import Tensor

from cutlayer.codec.codec import Codec, CodecPair, CodecState, Decoded, Encoded, Segments
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.presets import none
from cutlayer.codec.staged import StagedCodec
from cutlayer.config.schema import Config
from cutlayer.jobs.build import make_codecs
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.training.evaluation import evaluate
from cutlayer.training.exchange import RoundCosts
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import Setup

Result: TypeAlias = dict[str, Any]
Settings: TypeAlias = dict[str, Any]

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1, 2)
BEFORE = "before training"
NONE = "none"
FROZEN = "none, device part frozen"
TOLD = "best, 0.3 + 0.8, less what tokens say"
UPLINK = ("activation", "labels", "adapter", "adapter_up")

TASKS: dict[str, Settings] = {
    "smollm2-brown": {
        **codec_accuracy.COMMON,
        "model": {"name": "smollm2", "cut": 4},
        "data": {"name": "brown", "train_samples": 192, "test_samples": 48, "max_tokens": 64},
        "training": {"rounds": 2, "local_steps": 12, "batch_size": 4},
        "optimizer": {"name": "adamw", "learning_rate": 2e-3},
    },
    # four local steps between merges, where the example has one
    "smollm2-arithmetic": {
        **{k: v for k, v in language.settings_of("arithmetic").items() if k != "evaluation"},
        "training": {"rounds": 4, "local_steps": 4, "batch_size": 4},
        "optimizer": {
            "name": "adamw",
            "learning_rate": 3e-3,
            "schedule": {"name": "decay", "factor": 0.7},
        },
    },
    "minilm-glosses": {**codec_accuracy.COMMON, **codec_accuracy.TASKS["minilm-glosses"]},
    "dinov2-fashion": {
        **codec_accuracy.COMMON,
        "model": {"name": "dinov2-small", "cut": 4},
        "data": {
            "name": "fashion-mnist",
            "train_samples": 1024,
            "test_samples": 1000,
            "image_size": 56,
        },
        "training": {"rounds": 2, "local_steps": 16, "batch_size": 16},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    },
}


@dataclass(frozen=True)
class Row:
    """One way of sending. `codec`: a section of the configuration, or two; None: float32 that way.

    `predicted`: activations are sent as differences to what the receiver computes itself, by the
    base's own device part from the tokens that labels tell it. `means`: activations decode to the
    mean of each cell, and lose energy.
    """

    up: Settings | None
    down: Settings | None
    frozen: bool = False
    predicted: bool = False
    means: bool = False


def best(
    up: float, down: float, share: float | None = None, rows: int = 0
) -> tuple[Settings, Settings]:
    """`best` at so many bits; without a share, the preset's own; with references to `rows`."""
    rest: Settings = {} if share is None else {"basis_share": share}
    if rows:
        rest["reference_rows"] = rows
    whole = {"name": "best", "target_bits_up": up, "target_bits_down": down, **rest}
    return whole, whole


HADAMARD = codec_accuracy.CODECS["int4, Hadamard"]
AQ_SGD = codec_accuracy.CODECS["AQ-SGD delta, int4"]
PRESET = "best, 0.7 + 0.4"
MEANS = "best, 0.7 + 0.4, cells' means"
MORE_UP = "best, 0.9 + 0.15"
REFERRING = "best, 0.95 + 0.15, references"
ROWS: dict[str, Row] = {
    NONE: Row(None, None),
    MEANS: Row(*best(0.7, 0.4), means=True),
    PRESET: Row(*best(0.7, 0.4)),
    MORE_UP: Row(*best(0.9, 0.15)),
    "best, 0.95 + 0.15": Row(*best(0.95, 0.15)),
    REFERRING: Row(*best(0.95, 0.15, rows=4096)),
    "best, 0.7 up alone": Row(best(0.7, 0.4)[0], None),
    "best, 0.4 down alone": Row(None, best(0.7, 0.4)[1]),
    "best, 0.7 + 0.4, all of the basis": Row(*best(0.7, 0.4, 1.0)),
    FROZEN: Row(None, None, frozen=True),
    "best, 1.1 up, device part frozen": Row(best(1.1, 0.4, 1.0)[0], None, frozen=True),
    TOLD: Row(*best(0.3, 0.8), predicted=True),
    "best, 4 + 4, a third of the basis": Row(*best(4.0, 4.0, 1 / 3)),
    "best, 4 + 4, all of the basis": Row(*best(4.0, 4.0, 1.0)),
    "int4, Hadamard": Row(HADAMARD, HADAMARD),
    "AQ-SGD, int4": Row(AQ_SGD, AQ_SGD),
}
# rows that say most, which all seeds have
DECIDING = (NONE, PRESET, MORE_UP, REFERRING)
# of causal language models alone
OF_TOKENS = (TOLD,)


def fingerprint(task: str, row: str) -> str:
    """Changes with any setting, so that results of old settings are not mistaken for new ones."""
    text = json.dumps([TASKS[task], repr(ROWS.get(row))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def arithmetic_of(task: str) -> AbstractContextManager[Any]:
    """What the task's products are computed in: see the module."""
    if task.startswith("smollm2"):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


# --- one run -------------------------------------------------------------------------------------


def prepared(task: str, seed: int, *, frozen: bool = False) -> Job:
    """The task, ready to train without a codec; its test samples are those of seed 0."""
    scheme = "sft-frozen" if frozen else "sft"
    settings = {**TASKS[task], "codec": "none", "threads": 1, "scheme": scheme}
    job, first = (
        prepare(Config.model_validate({**settings, "seed": number})) for number in (seed, SEEDS[0])
    )
    server = replace(job.setup.server, test=first.setup.server.test)
    return replace(job, setup=replace(job.setup, server=server))


def run_rows(task: str, seed: int, names: Sequence[str], output: Path) -> None:
    """Load the task once, then train with each row; one line of `output` each."""
    jobs: dict[bool, Job] = {}
    for name in names:
        frozen = name != BEFORE and ROWS[name].frozen
        if frozen not in jobs:
            jobs[frozen] = prepared(task, seed, frozen=frozen)
        print(f"{task}, seed {seed}: {name}", flush=True)
        known = {"task": task, "row": name, "seed": seed, "settings": fingerprint(task, name)}
        result = run(jobs[frozen], task, name)
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**known, **result}) + "\n")


def run(job: Job, task: str, name: str) -> Result:
    """Train from the start, evaluate without compression."""
    begun_s = time.process_time()
    state, costs, losses = initial_state(job.setup), [], []
    with arithmetic_of(task):
        if name != BEFORE:
            setup = with_codecs(job, ROWS[name])
            for _ in range(job.config.training.rounds):
                outcome = Round(setup, state).play()
                state = outcome.state
                costs.append(outcome.round_costs)
                losses.append(round(outcome.train_loss, 4))
        evaluation = evaluate(job.setup.training, job.setup.server, state)
        measured = {"accuracy": evaluation.accuracy, "loss": evaluation.loss}
        if job.config.data.name == "arithmetic":
            answers = language.answer(job, language.as_peft(job, state))
            measured["exact_match"] = answers["exact_match"]
    cpu_s = round(time.process_time() - begun_s, 1)
    return {**measured, "train_losses": losses, **traffic(costs), "cpu_s": cpu_s}


def traffic(costs: Sequence[RoundCosts]) -> Result:
    """Bits per element of activations and gradients, where a direction has any."""
    counted: Result = {}
    for way, payload in (("up", "activation"), ("down", "gradient")):
        sent = sum(each.bytes_by_payload().get(payload, 0) for each in costs)
        others = sum(
            size
            for each in costs
            for name, size in each.bytes_by_payload().items()
            if name != payload and (name in UPLINK) == (way == "up")
        )
        link = f"uncompressed_{way}link_bytes"
        plain = sum(each.byte_counts()[link] for each in costs) - others
        if sent:
            counted[f"bits_{way}"] = codec_accuracy.FLOAT_BITS * sent / plain
    return counted


def with_codecs(job: Job, row: Row) -> Setup:
    """The run's setup with this row's codecs."""
    setup = job.setup
    packets = job.config.training.rounds * setup.devices[0].local_steps
    up, down = (
        none()
        if section is None
        else make_codecs(Config.model_validate({"codec": section}).codec, packets)
        for section in (row.up, row.down)
    )
    pair = CodecPair(up.up, down.down)
    if row.means:
        assert isinstance(pair.up, StagedCodec) and isinstance(pair.up.quantiser, DeadZone)
        quantiser = replace(pair.up.quantiser, keeps_energy=False)
        pair = CodecPair(replace(pair.up, quantiser=quantiser), pair.down)
    if row.predicted:
        part = PredictingPart(setup.server.device_part)
        pair = CodecPair(Difference(pair.up, part), pair.down)
        setup = replace(setup, server=replace(setup.server, device_part=part))
    return replace(setup, training=replace(setup.training, codecs=pair))


# --- less what tokens say ------------------------------------------------------------------------


@final
class PredictingPart:
    """A device part that notes, at each forward, what the base alone makes of the same inputs.

    What it notes is what a server that knows the tokens can compute: labels tell it those of a
    causal language model that is trained on all of them.
    """

    def __init__(self, part: Any) -> None:
        self.task, self.cut, self.adapted = part.task, part.cut, part.adapted
        self._part = part
        self._noted: list[Tensor] = []

    def forward(self, rows: Tensor, sizes: Sequence[int], *args: Any, **options: Any) -> Tensor:
        """The activation at the cut."""
        if rows.requires_grad:
            with torch.no_grad():
                # an adapter of zeros changes nothing
                base = self._part.forward(torch.zeros_like(rows), sizes, *args, **options)
            self._noted += torch.split(base.float(), list(sizes))
        activation: Tensor = self._part.forward(rows, sizes, *args, **options)
        return activation

    def next(self, shape: tuple[int, ...]) -> np.ndarray:
        """The prediction of the next device's tensor, as long as its own longest sample."""
        return self._noted.pop(0)[:, : shape[1]].numpy()


@final
@dataclass(frozen=True)
class Difference(Codec):
    """Codes differences to a prediction that both ends have; each decode follows its encode."""

    inner: Codec
    part: PredictingPart
    last: list[np.ndarray] = field(default_factory=list)
    name: ClassVar[str] = "difference"

    def encode(
        self,
        tensor: np.ndarray,
        state: CodecState,
        rng: np.random.Generator,
        *,
        lengths: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Encoded:
        self.last[:] = [self.part.next(tensor.shape)]
        return self.inner.encode(tensor - self.last[0], state, rng, lengths=lengths)

    def decode(self, packet: bytes, shape: tuple[int, ...], state: CodecState) -> Decoded:
        decoded = self.inner.decode(packet, shape, state)
        segments = Segments.of(shape, decoded.lengths)  # type: ignore[arg-type]
        known = segments.zero_padding(self.last[0])
        return replace(decoded, tensor=decoded.tensor + known)

    def expected_bytes(self, shape: tuple[int, int, int]) -> float:
        return self.inner.expected_bytes(shape)

    def remembered_bytes(self, width: int) -> tuple[int, int]:
        return self.inner.remembered_bytes(width)


# --- the queue -----------------------------------------------------------------------------------


def read_results(path: Path) -> list[Result]:
    """Results of the present settings."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        line
        for line in lines
        if line["task"] in TASKS and line["settings"] == fingerprint(line["task"], line["row"])
    ]


def missing(
    results: Sequence[Result], tasks: Sequence[str], rows: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[str, int, list[str]]]:
    """What is still to run, all of seed 0 first; of the other seeds, the rows that decide."""
    done = {(result["task"], result["row"], result["seed"]) for result in results}
    for seed in seeds:
        for task in tasks:
            rest = [
                row
                for row in rows
                if (task, row, seed) not in done
                and (seed == SEEDS[0] or row in DECIDING)
                and (row not in OF_TOKENS or task == "smollm2-brown")
            ]
            if rest:
                yield task, seed, rest


# --- the table -----------------------------------------------------------------------------------


def tables(results: Sequence[Result]) -> str:
    """Markdown: a table for each task."""
    parts = []
    for task in TASKS:
        found = [result for result in results if result["task"] == task]
        if found:
            parts.append(f"## {task}\n\n{table(task, found)}\n")
    rest = [
        f"* {task}, seed {seed}: {'; '.join(rows)}"
        for task, seed, rows in missing(results, list(TASKS), (BEFORE, *ROWS), SEEDS)
    ]
    if rest:
        parts.append("Not run yet:\n\n" + "\n".join(rest))
    return "\n".join(parts)


def table(task: str, results: Sequence[Result]) -> str:
    """One line for each row: bits, the score, the part of the gain that is kept."""
    score = "perplexity" if task == "smollm2-brown" else "score [%]"
    lines = [
        f"| row | bits up | bits down | {score} | gain kept [%] | seeds |",
        "|---|---|---|---|---|---|",
    ]
    before = [result for result in results if result["row"] == BEFORE]
    for name in (BEFORE, *ROWS):
        found = [result for result in results if result["row"] == name]
        if not found:
            continue
        bits = [
            f"{mean(r[f'bits_{way}'] for r in found):.2f}" if f"bits_{way}" in found[0] else ""
            for way in ("up", "down")
        ]
        scores = spread([score_of(result) for result in found])
        kept = kept_parts(found, results, score_of(before[0])) if before else []
        cells = [name, *bits, scores, spread([100 * part for part in kept]), str(len(found))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept_parts(found: Sequence[Result], results: Sequence[Result], before: float) -> list[float]:
    """The part of the gain that each seed keeps, of those that `none` was run with."""
    whole = {r["seed"]: score_of(r) - before for r in results if r["row"] == NONE}
    return [
        (score_of(r) - before) / whole[r["seed"]]
        for r in found
        if r["row"] not in (BEFORE, NONE) and r["seed"] in whole
    ]


def score_of(result: Mapping[str, Any]) -> float:
    """Perplexity of Brown; else the percentage of right answers."""
    if result["task"] == "smollm2-brown":
        return math.exp(result["loss"])
    return 100 * float(result.get("exact_match", result["accuracy"]))


def spread(values: Sequence[float]) -> str:
    """Mean (lowest to highest)."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{mean(values):.1f}" + (f" ({low:.1f} to {high:.1f})" if len(values) > 1 else "")


def main() -> None:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--row", choices=(BEFORE, *ROWS), action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables; run nothing")
    given = parser.parse_args()
    results = read_results(given.output)
    if given.table:
        print(tables(results))
        return
    rows = given.row or (BEFORE, *ROWS)
    for unit in missing(results, given.task or list(TASKS), rows, given.seed or SEEDS):
        run_rows(*unit, given.output)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
