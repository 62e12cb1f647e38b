"""What accuracy does each codec leave, and how many bits does it take?

Both directions of every mini-batch go through the codec, as packets that are really made and
decoded; a basis or mean that is shipped counts as bits of its direction. What is not counted:
labels, adapters and the model, the same for all codecs. Rows are codecs; per task, a table of bits
per element up and down against accuracy (language modelling: perplexity), mean over seeds 0, 1, 2
and (lowest to highest).

    python experiments/codec_accuracy.py --cifar100 FOLDER --workers 2   # CIFAR-100's binary files
    python experiments/codec_accuracy.py --table > experiments/codec_accuracy.md

Wall time: 30 to 55 s of one core a run, some three hours of two cores for all of them; every
result is appended to `codec_accuracy.jsonl` at once, and what is there is not run again. Expected
numbers: the committed `codec_accuracy.md`.

The images' head is fitted first, once for all codecs, to the features of the model as it comes
("linear probe, then fine-tune", Kumar et al., arXiv:2202.10054): from a random head, no codec
gets a hundred classes far above chance in the thousand images that a run can afford here.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutlayer.config.schema import Config
from cutlayer.errors import PacketError
from cutlayer.jobs.build import make_codecs
from cutlayer.jobs.prepare import prepare
from cutlayer.training.evaluation import evaluate
from cutlayer.training.exchange import RoundCosts, group_inputs
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import RunState, Setup

Result = dict[str, Any]
Settings = dict[str, Any]

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1, 2)
FLOAT_BYTES = 4
FLOAT_BITS = 32
BEFORE = "before training"

# Texts are passed over twice, a round each, so that codecs that remember samples meet each again
# once. Images are passed over once: a second pass over half as many overfits (AdamW: 33 % instead
# of 35 %), so there those codecs have nothing to remember.
COMMON: Settings = {
    "partition": "iid",
    "adapter": {"rank": 8, "alpha": 8},
    "devices": {"count": 2, "memory_mib": None},
    "threads": 1,
    "codec": "none",
}
IMAGES: Settings = {
    "model": {"name": "dinov2-small", "cut": 3},
    "data": {"train_samples": 1088, "test_samples": 1000, "image_size": 56},
    "training": {"rounds": 2, "local_steps": 17, "batch_size": 16},
}
TASKS: dict[str, Settings] = {
    "dinov2-sgd": {
        **IMAGES,
        "optimizer": {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.9},
    },
    "dinov2-adamw": {**IMAGES, "optimizer": {"name": "adamw", "learning_rate": 1e-3}},
    "minilm-glosses": {
        "model": {"name": "minilm", "cut": 2},
        "data": {
            "name": "wordnet-glosses",
            "train_samples": 512,
            "test_samples": 1000,
            "max_tokens": 24,
        },
        "training": {"rounds": 2, "local_steps": 16, "batch_size": 16},
        "optimizer": {"name": "adamw", "learning_rate": 3e-3},
    },
    "smollm2-brown": {
        "model": {"name": "smollm2", "cut": 4},
        "data": {"name": "brown", "train_samples": 20, "test_samples": 24, "max_tokens": 64},
        "training": {"rounds": 2, "local_steps": 5, "batch_size": 2},
        "optimizer": {"name": "adamw", "learning_rate": 2e-3},
    },
}

PLAIN: Settings = {"entropy": "raw"}
TOP_K: Settings = {
    "sparsify": {"name": "sample", "keep_ratio": 0.1},
    "quantise": {"name": "levels", "levels": 7},
}
INT4: Settings = {**PLAIN, "quantise": {"name": "int", "bits": 4}}


def integers(bits: int, transform: str) -> Settings:
    """int-k without entropy coding, as others send it, after a transform."""
    up = {**PLAIN, "quantise": {"name": "int", "bits": bits}, "transform": transform}
    return {"name": "stages", "up": up}


def best(up: float, down: float) -> Settings:
    """`best` at so many bits per element."""
    return {"name": "best", "target_bits_up": up, "target_bits_down": down}


CODECS: dict[str, Settings] = {
    "none": {"name": "none"},
    "paper 0.1, 3 bits": {"name": "paper", "keep_ratio": 0.1, "levels": 7},
    "paper 0.2, 3 bits": {"name": "paper", "keep_ratio": 0.2, "levels": 7},
    "paper 0.5, 5 bits": {"name": "paper", "keep_ratio": 0.5, "levels": 31},
    "paper-rans 0.2, 3 bits": {"name": "paper-rans", "keep_ratio": 0.2, "levels": 7},
    "best, least": best(0.22, 0.1),
    "best, small": best(0.26, 0.12),
    "best, middle": best(0.42, 0.24),
    "best, large": best(0.7, 0.4),
    "int8": integers(8, "none"),
    "int8, Hadamard": integers(8, "hadamard"),
    "int4": integers(4, "none"),
    "int4, Hadamard": integers(4, "hadamard"),
    "int2": integers(2, "none"),
    "int2, Hadamard": integers(2, "hadamard"),
    "fp8": {"name": "stages", "up": {**PLAIN, "quantise": "float8"}},
    "Top-K 0.1, error feedback": {
        "name": "stages",
        "up": {**TOP_K, "memory": "error-feedback"},
    },
    "AQ-SGD delta, int4": {
        "name": "stages",
        "up": {**INT4, "memory": "delta"},
        "down": INT4,
    },
}


def fingerprint(task: str, codec: str) -> str:
    """Changes with any setting, so that results of old settings are not mistaken for new ones."""
    text = json.dumps([COMMON, TASKS[task], CODECS.get(codec)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def config_of(
    task: str, seed: int, cifar100: str | None, train_samples: int | None = None
) -> Config:
    """The task's configuration, with another number of training samples where one is given."""
    settings = json.loads(json.dumps({**COMMON, **TASKS[task], "seed": seed}))
    if "name" not in settings["data"]:
        settings["data"]["name"] = cifar100
    if train_samples is not None:
        settings["data"]["train_samples"] = train_samples
    return Config.model_validate({"scheme": "sft", **settings})


# --- one run -------------------------------------------------------------------------------------


def run_codecs(
    task: str, seed: int, codecs: Sequence[str], cifar100: str | None, output: Path
) -> None:
    """Load the task once, then train with each codec; one line of `output` each."""
    job = prepare(config_of(task, seed, cifar100))
    # the test samples of seed 0 for all, so that the spread is that of training alone
    first = job if seed == 0 else prepare(config_of(task, 0, cifar100))
    server = replace(job.setup.server, test=first.setup.server.test)
    setup = replace(job.setup, server=server)
    start = initial_state(setup)
    if setup.training.task == "image-classification":
        start = with_head(setup, start, *probed_head(cifar100))
    for codec in codecs:
        print(f"{task}, seed {seed}: {codec}", flush=True)
        result = run(setup, start, codec, job.config.training.rounds)
        known = {"task": task, "codec": codec, "seed": seed, "settings": fingerprint(task, codec)}
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**known, **result}) + "\n")


def run(setup: Setup, start: RunState, codec: str, rounds: int) -> Result:
    """Train `rounds` from `start` and evaluate, uncompressed."""
    begun_s = time.process_time()
    state, costs, losses = start, [], []
    if codec != BEFORE:
        section = Config.model_validate({"codec": CODECS[codec]}).codec
        packets = rounds * setup.devices[0].local_steps
        training = replace(setup.training, codecs=make_codecs(section, packets))
        setup = replace(setup, training=training)
        try:
            for _ in range(rounds):
                outcome = Round(setup, state).play()
                state = outcome.state
                costs.append(outcome.round_costs)
                losses.append(outcome.train_loss)
        except PacketError as error:  # activations or gradients that are not finite
            return {"diverged": str(error)}
    evaluation = evaluate(setup.training, setup.server, state)
    return {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "train_losses": losses,
        **traffic(costs),
        "cpu_s": time.process_time() - begun_s,
    }


def traffic(costs: Sequence[RoundCosts]) -> Result:
    """Bytes of activations and gradients, and bits per element of each.

    Elements are counted by what they would be as float32 packets; padding is in none. A packet's
    frame of some 60 bytes adds to that count less than one element in a thousand.
    """
    total = {"up": 0, "down": 0, "plain_up": 0, "plain_down": 0}
    for round_costs in costs:
        sent, counts = round_costs.bytes_by_payload(), round_costs.byte_counts()
        others_up = sent["labels"] + sent["adapter_up"]
        others_down = sent["adapter_down"] + sent.get("weights", 0)
        total["up"] += sent["activation"]
        total["down"] += sent["gradient"]
        total["plain_up"] += counts["uncompressed_uplink_bytes"] - others_up
        total["plain_down"] += counts["uncompressed_downlink_bytes"] - others_down
    bits = {
        f"bits_{way}": FLOAT_BITS * total[way] / total[f"plain_{way}"]
        for way in ("up", "down")
        if total[way]
    }
    return {"bytes_up": total["up"], "bytes_down": total["down"], **bits}


# --- the images' head ----------------------------------------------------------------------------

PROBE_SAMPLES = 3200
PROBE_DECAY = 0.03
PROBE_STEPS = 60
_heads: dict[str | None, tuple[Tensor, Tensor]] = {}


def probed_head(cifar100: str | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear head on the untouched model's features of seed 0's samples."""
    if cifar100 not in _heads:
        setup = prepare(config_of("dinov2-adamw", 0, cifar100, PROBE_SAMPLES)).setup
        _heads[cifar100] = fit_head(*features(setup), setup.training.classes)
    return _heads[cifar100]


@torch.no_grad()
def features(setup: Setup) -> tuple[Tensor, Tensor]:
    """What the head is given for every training sample, and the labels."""
    state, seen, labels = initial_state(setup), [], []
    head = setup.server.part.adapted.model.get_submodule("classifier")
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    for first in range(0, len(setup.devices[0].train), 64):
        indices = np.arange(first, min(first + 64, len(setup.devices[0].train)))
        batch = setup.devices[0].batch(indices)
        group = group_inputs([batch])
        rows = state.device.row[None], state.server.row[None]
        activation = setup.server.device_part.forward(rows[0], group.sizes, group.inputs)
        setup.server.part.forward(rows[1], group.sizes, activation, group.lengths)
        labels.append(torch.from_numpy(batch.labels))
    hook.remove()
    return torch.cat(seen), torch.cat(labels)


def fit_head(inputs: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Logistic regression with L2, by L-BFGS."""
    weight = torch.zeros(classes, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=PROBE_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = nn.functional.linear(inputs, weight, bias)
        loss = nn.functional.cross_entropy(logits, labels) + PROBE_DECAY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def with_head(setup: Setup, state: RunState, weight: Tensor, bias: Tensor) -> RunState:
    """`state` with this head."""
    layout = setup.server.part.adapted.layout
    slots = dict(layout.named(state.server.row))
    for name, slot in slots.items():
        if name.startswith("classifier"):
            slots[name] = weight if slot.ndim > 1 else bias
    return replace(state, server=replace(state.server, row=layout.join(slots)))


# --- the queue -----------------------------------------------------------------------------------


def read_results(path: Path) -> list[Result]:
    """Results of the present settings."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        line
        for line in lines
        if line["task"] in TASKS and line["settings"] == fingerprint(line["task"], line["codec"])
    ]


def missing(
    results: Sequence[Result], tasks: Sequence[str], codecs: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[str, int, list[str]]]:
    """What is still to run, all of seed 0 first."""
    done = {(result["task"], result["codec"], result["seed"]) for result in results}
    for seed in seeds:
        for task in tasks:
            rest = [codec for codec in codecs if (task, codec, seed) not in done]
            if rest:
                yield task, seed, rest


# --- the tables ----------------------------------------------------------------------------------


def tables(results: Sequence[Result]) -> str:
    """Markdown: a table for each task, and below it what the goals come to."""
    parts = []
    for task in TASKS:
        rows = {
            name: [r for r in results if r["task"] == task and r["codec"] == name]
            for name in (BEFORE, *CODECS)
        }
        rows = {name: found for name, found in rows.items() if found}
        if rows:
            parts.append(f"## {task}\n\n{table(task, rows)}\n\n{verdicts(rows)}\n")
    return "\n".join(parts)


def table(task: str, rows: Mapping[str, list[Result]]) -> str:
    """One line for each codec."""
    language = task.startswith("smollm2")
    heads = ["codec", "bits up", "bits down", "times fewer bytes", "accuracy [%]", "seeds"]
    if language:
        heads.insert(4, "perplexity")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, found in rows.items():
        whole = [result for result in found if "diverged" not in result]
        cells = [name, *sizes(whole)]
        if language:
            cells.append(spread(whole, lambda r: math.exp(min(r["loss"], 50.0)), 2))
        cells += [spread(whole, lambda r: 100 * r["accuracy"], 1), seeds_cell(found, whole)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sizes(found: Sequence[Result]) -> list[str]:
    """Bits up, bits down, and float32's bits over both."""
    if not found or "bits_up" not in found[0]:
        return ["", "", ""]
    up, down = (mean(r[f"bits_{way}"] for r in found) for way in ("up", "down"))
    return [f"{up:.3f}", f"{down:.3f}", f"{2 * FLOAT_BITS / (up + down):.0f}"]


def spread(found: Sequence[Result], value: Callable[[Result], float], digits: int) -> str:
    """Mean (lowest to highest)."""
    values = [value(result) for result in found]
    if not values:
        return "diverged"
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def seeds_cell(found: Sequence[Result], whole: Sequence[Result]) -> str:
    """How many seeds, and how many of them diverged."""
    lost = len(found) - len(whole)
    return f"{len(found)}" + (f", {lost} diverged" if lost else "")


def verdicts(rows: Mapping[str, list[Result]]) -> str:
    """The two goals for `best`; "points" are points of accuracy, of tokens in a language model.

    Differences and bytes are over the seeds that both codecs were run with.
    """
    lines = []
    for name in CODECS:
        if not name.startswith("best") or name not in rows:
            continue
        gain = points(rows, name, "paper 0.2, 3 bits")
        share = together(rows, name, "paper-rans 0.2, 3 bits")
        if gain is not None and share is not None:
            fewer = share[1] / share[0]
            verdict = "met" if gain >= 0.0 and fewer >= 4.0 else "not met"
            lines.append(
                f"* {name}: {gain:+.1f} points against `paper` (0.2, 3 bits) in 1/{fewer:.1f} of"
                f" `paper-rans`'s bytes (goal: no loss in 1/4): {verdict}"
            )
        loss, bits = points(rows, name, "none"), together(rows, name, name)
        if loss is not None and bits is not None:
            verdict = "met" if loss >= -1.0 and bits[0] <= 1.2 else "not met"
            lines.append(
                f"* {name}: {loss:+.1f} points against `none` at {bits[0]:.2f} bits together"
                f" (goal: within 1 point at 1.2 bits): {verdict}"
            )
    return "\n".join(lines)


def pairs(rows: Mapping[str, list[Result]], name: str, other: str) -> list[tuple[Result, Result]]:
    """The results of both codecs, seed by seed."""
    by_seed = {result["seed"]: result for result in rows.get(other, [])}
    return [(r, by_seed[r["seed"]]) for r in rows.get(name, []) if r["seed"] in by_seed]


def points(rows: Mapping[str, list[Result]], name: str, other: str) -> float | None:
    """Mean difference in accuracy [%]; none if there is no seed, or one diverged."""
    both = pairs(rows, name, other)
    if not both or any("diverged" in result for pair in both for result in pair):
        return None
    return 100 * mean(float(one["accuracy"]) - float(two["accuracy"]) for one, two in both)


def together(rows: Mapping[str, list[Result]], name: str, other: str) -> tuple[float, float] | None:
    """Mean bits per element of each, up and down together."""
    both = pairs(rows, name, other)
    if not both or any("bits_up" not in result for pair in both for result in pair):
        return None
    sums = [[float(r["bits_up"]) + float(r["bits_down"]) for r in pair] for pair in both]
    return mean(one for one, _ in sums), mean(two for _, two in sums)


# --- the command ---------------------------------------------------------------------------------


def main() -> None:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--codec", choices=(BEFORE, *CODECS), action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cifar100", help="folder of CIFAR-100's binary files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables; run nothing")
    given = parser.parse_args()
    tasks = given.task or list(TASKS)
    results = read_results(given.output)
    if given.table:
        print(tables(results))
        return
    if given.cifar100 is None and any("name" not in TASKS[task]["data"] for task in tasks):
        parser.error("give --cifar100 FOLDER, or only a --task that needs none")
    todo = missing(results, tasks, given.codec or (BEFORE, *CODECS), given.seed or SEEDS)
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        work = partial(run_codecs, cifar100=given.cifar100, output=given.output)
        for future in [pool.submit(work, *unit) for unit in todo]:
            future.result()


if __name__ == "__main__":
    main()
