"""Devices of rank 4, 8 and 16: which mean of their adapters learns most?

Three devices with ranks 4, 8 and 16 and labels of their own proportions train DINOv2-small. Their
adapters are merged by zero-padding (the mean of A and the mean of B, as FedAvg has them), by
product (the mean of B A, refactored to each rank), or by stacking as FLoRA has it (arXiv
2409.05976: every device adds the exact mean of B A, of rank 28, to its frozen weights, and begins
anew with fresh adapters), which is done here by hand: the package does not have it. Beside them all
devices have rank 16, or rank 4. Alpha is the largest rank, so that all adapters are scaled by 1.

    nice python experiments/ranks.py                 # all that is missing
    python experiments/ranks.py --table > experiments/ranks.md

Wall time: about a quarter of a minute of one core a run; each result is appended to `ranks.jsonl`
at once, and what is there is not run again. All of seed 0 comes first. Expected numbers: the
committed `ranks.md`. Seconds are simulated, on the package's default channel and devices.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeAlias

import torch

from cutlayer.config.schema import Config
from cutlayer.jobs.prepare import prepare
from cutlayer.model.lora import LoraLinear
from cutlayer.training.evaluation import evaluate
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import AdapterState, RunState, Setup

Result: TypeAlias = dict[str, Any]

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1, 2)
RANKS = (4, 8, 16)
PADDED, PRODUCT, STACKING = (f"4, 8, 16, {by}" for by in ("zero-padding", "product", "stacking"))
MIX = {"rank": list(RANKS), "alpha": 16}
WAYS: dict[str, dict[str, Any]] = {
    PADDED: {"adapter": MIX},
    PRODUCT: {"adapter": MIX, "aggregation": {"merge": "product"}},
    STACKING: {"adapter": MIX, "aggregation": "none"},
    "16": {"adapter": {"rank": 16, "alpha": 16}},
    "4": {"adapter": {"rank": 4, "alpha": 4}},
}
COMMON: dict[str, Any] = {
    "scheme": "sft",
    "codec": "none",
    "model": {"name": "dinov2-small", "cut": 4},
    "data": {
        "name": "fashion-mnist",
        "train_samples": 900,
        "test_samples": 400,
        "image_size": 28,
    },
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "training": {"rounds": 6, "local_steps": 4, "batch_size": 8},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    "devices": {"count": 3, "memory_mib": None},
    "threads": 1,
}


def run(way: str, seed: int) -> Result:
    """Train, evaluate after every second round; one line of the results."""
    begun_s = time.process_time()
    config = Config.model_validate({**COMMON, **WAYS[way], "seed": seed})
    setup = prepare(config).setup
    state, accuracies = initial_state(setup), []
    for number in range(1, config.training.rounds + 1):
        outcome = Round(setup, state).play()
        state = stacked(setup, outcome.state) if way == STACKING else outcome.state
        if number % 2 == 0:
            evaluated = evaluate(setup.training, setup.server, state)
            accuracies.append(100 * evaluated.accuracy)
    sent = dict(outcome.round_costs.bytes_by_payload())
    if way == STACKING:  # what each device sends, all devices hear
        sent["adapter_down"] = sent["adapter_up"]
    return {
        "way": way,
        "seed": seed,
        "accuracies": accuracies,
        "loss": evaluated.loss,
        "train_loss": outcome.train_loss,
        "adapter_bytes": {name: sent[name] for name in ("adapter_up", "adapter_down")},
        "round_s": outcome.timeline.delay_s,
        "cpu_s": round(time.process_time() - begun_s, 1),
    }


@torch.no_grad()
def stacked(setup: Setup, state: RunState) -> RunState:
    """The state after a round whose adapters are merged into the frozen weights of `setup`, with
    fresh ones, as FLoRA has it; heads are averaged."""
    weights = torch.tensor([float(device.samples) for device in setup.devices])
    shares = (weights / weights.sum()).double()
    sides = []
    for part, side in zip(setup.parts, (state.device, state.server), strict=True):
        adapted = part.adapted
        rows = adapted.layout.split(side.row)
        fresh = adapted.initial_row(setup.training.seed + 1000 * state.round)
        named = adapted.layout.named(fresh)
        for slot in adapted.layout.slots:
            if not slot.lora:
                named[slot.name].copy_(torch.tensordot(shares, rows[slot.name].double(), 1))
        for layer in adapted.model.modules():
            if isinstance(layer, LoraLinear):
                a, b = (rows[slot.name].double() for slot in layer.slots)
                # alpha is the rank: the scale is 1
                layer.base.weight += torch.einsum("n,nor,nri->oi", shares, b, a).float()
        sides.append(AdapterState(fresh, {}))
    return replace(state, device=sides[0], server=sides[1])


def read_results() -> list[Result]:
    """What has been run."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def missing(results: Sequence[Result]) -> Iterator[tuple[str, int]]:
    """What is still to run, all of the first seed first."""
    done = {(one["way"], one["seed"]) for one in results}
    for seed in SEEDS:
        yield from ((way, seed) for way in WAYS if (way, seed) not in done)


def table(results: Sequence[Result]) -> Iterator[str]:
    """In Markdown; accuracy and its difference from zero-padding, seed by seed."""
    training = COMMON["training"]
    yield "## Which mean of adapters of several ranks"
    yield ""
    yield (
        f"DINOv2-small on Fashion-MNIST at 28 px, cut after 4 of 12 blocks, 3 devices (Dirichlet"
        f" 0.5), {training['rounds']} rounds of {training['local_steps']} local steps of"
        f" {training['batch_size']} images, AdamW 1e-3, 400 test images. Difference: from ranks 4,"
        " 8, 16 by zero-padding with the same seed, mean ± standard error, and in how many seeds it"
        " is not lower."
    )
    yield ""
    yield (
        "| ranks, merge | accuracy after 2, 4, 6 rounds | difference | not lower | test loss |"
        " adapters up + down a round [MB] | a round [s] | seeds |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    plain = {r["seed"]: r for r in results if r["way"] == PADDED}
    for way in WAYS:
        rows = [r for r in results if r["way"] == way and r["seed"] in plain]
        if rows:
            yield row_of(way, rows, plain)
    left = len(list(missing(results)))
    if left:
        yield ""
        yield f"Not run yet: {left} of {len(SEEDS) * len(WAYS)} runs."


def row_of(way: str, rows: Sequence[Result], plain: dict[int, Result]) -> str:
    """One line of the table."""
    apart = [r["accuracies"][-1] - plain[r["seed"]]["accuracies"][-1] for r in rows]
    error = f" ± {stdev(apart) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else ""
    up, down = (
        mean(r["adapter_bytes"][name] for r in rows) / 1e6
        for name in ("adapter_up", "adapter_down")
    )
    cells = (
        way,
        ", ".join(
            f"{mean(each):.1f}" for each in zip(*(r["accuracies"] for r in rows), strict=True)
        ),
        "" if way == PADDED else f"{mean(apart):+.1f}{error}",
        "" if way == PADDED else f"{sum(each >= 0 for each in apart)} of {len(apart)}",
        f"{mean(r['loss'] for r in rows):.3f}",
        f"{up:.2f} + {down:.2f}",
        # of stacking, played by hand, nobody has the broadcast on a clock
        "" if way == STACKING else f"{mean(r['round_s'] for r in rows):.2f}",
        str(len(rows)),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="print the table of what was run")
    if parser.parse_args().table:
        print("\n".join(table(read_results())))
        return
    for way, seed in missing(read_results()):
        result = run(way, seed)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{way}, seed {seed}: {result['accuracies'][-1]:.1f} %", flush=True)


if __name__ == "__main__":
    main()
