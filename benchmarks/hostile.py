"""Some of ten devices attack: the accuracy that each aggregation ends with, and without an attack.

    python benchmarks/hostile.py [--json FILE] [--seeds 0 1]

See README.md here for what the figures answer. Needs `pip install '.[train]'` and the models and
data of `cutlayer assets`. What an attacker sends is made of what it trained, or of its labels, as
adapters are merged; the weight grab says that it has all samples of the world. `checked` is the
mean by samples with what `cutlayer serve` leaves out of it (`net.most_update`, weights capped).
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

import cutlayer
from cutlayer.jobs.prepare import prepare, use_torch
from cutlayer.model.optimizer import Aggregation, FedAvg
from cutlayer.model.robust import Krum, Median, NormClipped, TrimmedMean, impossible
from cutlayer.training.evaluation import evaluate
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import DeviceSide, Setup

DEVICES, ROUNDS, STEPS, RATE = 10, 3, 6, 2e-3
RULES: dict[str, Callable[[float], Aggregation]] = {
    "fedavg": lambda share: FedAvg(),
    "checked": lambda share: FedAvg(),
    "median": lambda share: Median(),
    "trimmed-mean": TrimmedMean,
    "norm-clipped": lambda share: NormClipped(1.0),
    "krum": Krum,
}
# what is sent in the place of a row, of it and what the round began with
ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sign flip": lambda row, began: 2 * began - row,
    "1e30": lambda row, began: torch.full_like(row, 1e30),
    "scaled by 100": lambda row, began: began + 100 * (row - began),
    "random": lambda row, began: torch.randn(row.shape, generator=torch.Generator().manual_seed(1)),
}
LABELS, GRAB = "labels flipped", "weight grab"
ATTACKS = ("none", *ROWS, LABELS, GRAB)


@dataclass(frozen=True)
class Attacked(Aggregation):
    """Another aggregation of the rows in which the first `hostile` devices are attackers.

    `checked`: rows that no training can have made are left out before, and weights are capped.
    """

    rule: Aggregation
    attack: str
    hostile: int
    checked: bool
    began: Tensor | None = None

    def since(self, began: Tensor) -> "Attacked":
        return replace(self, began=began, rule=self.rule.since(began))

    def merge(self, rows: Tensor, weights: Sequence[float]) -> Tensor:
        assert self.began is not None
        rows, told = rows.clone(), list(weights)
        for place in range(self.hostile if self.attack in ROWS else 0):
            rows[place] = ROWS[self.attack](rows[place], self.began)
        if self.attack == GRAB:  # and moves where it likes, by as much as others
            for place in range(self.hostile):
                rows[place] = 2 * self.began - rows[place]
                told[place] = float(2**32 - 1)
        kept = list(range(len(rows)))
        if self.checked:
            told = [min(each, 1000.0) for each in told]
            most = [2 * 7.3 * RATE * STEPS] * len(rows)
            over = impossible(rows, self.began, most_move=most, times_median=10.0)
            kept = [place for place in kept if place not in over]
        return self.rule.merge(rows[kept], [told[place] for place in kept])


def config(seed: int) -> cutlayer.Config:
    """A small job that learns: from chance to three quarters."""
    return cutlayer.Config(
        scheme="sft",
        model={"name": "dinov2-small", "cut": 4},
        data={
            "name": "fashion-mnist",
            "train_samples": 2000,
            "test_samples": 500,
            "image_size": 42,
        },
        partition="iid",
        training={"rounds": ROUNDS, "local_steps": STEPS, "batch_size": 8},
        optimizer={"name": "adamw", "learning_rate": RATE},
        devices={"count": DEVICES, "memory_mib": None},
        seed=seed,
        threads=1,
    )


def accuracy(setup: Setup, rule: str, attack: str, hostile: int) -> float:
    """After the last round; 0.1, which is chance, where the adapter is no number any more."""
    made = Attacked(RULES[rule](max(hostile, 1) / DEVICES), attack, hostile, rule == "checked")
    devices = setup.devices
    if attack == LABELS:
        flipped = [_flipped(own, setup.training.classes) for own in devices[:hostile]]
        devices = (*flipped, *devices[hostile:])
    setup = replace(setup, server=replace(setup.server, aggregation=made), devices=devices)
    state = initial_state(setup)
    try:
        for _ in range(ROUNDS):
            state = Round(setup, state).play().state
    except cutlayer.CutlayerError:  # it diverged
        return 1 / setup.training.classes
    found = evaluate(setup.training, setup.server, state).accuracy
    return found if np.isfinite(found) else 1 / setup.training.classes


def _flipped(device: DeviceSide, classes: int) -> DeviceSide:
    samples = copy.copy(device.train)
    samples.labels = classes - 1 - samples.labels
    return replace(device, train=samples)


def measure(seeds: Sequence[int]) -> Iterator[dict[str, object]]:
    """Each attack by one and by three devices, under each aggregation."""
    for seed in seeds:
        made = config(seed)
        use_torch(made)
        setup = prepare(made).setup
        for attack in ATTACKS:
            for hostile in (0,) if attack == "none" else (1, 3):
                for rule in RULES:
                    found = accuracy(setup, rule, attack, hostile)
                    row = {"seed": seed, "attack": attack, "hostile": hostile, "rule": rule}
                    print(row, found, flush=True)
                    yield {**row, "accuracy": found}


def table(rows: Sequence[dict[str, object]]) -> str:
    """A line an attack: mean accuracy [%] over the seeds, by aggregation."""
    lines = [f"accuracy [%], {ROUNDS} rounds of {STEPS} steps; of {DEVICES} devices attack"]
    lines.append(f"{'':24}" + "".join(f"{rule:>14}" for rule in RULES))
    for attack, hostile in dict.fromkeys((r["attack"], r["hostile"]) for r in rows):
        cells = []
        for rule in RULES:
            own = [
                float(str(r["accuracy"]))
                for r in rows
                if (r["attack"], r["hostile"], r["rule"]) == (attack, hostile, rule)
            ]
            cells.append(f"{100 * mean(own):14.1f}" if own else f"{'-':>14}")
        lines.append(f"{f'{attack}, {hostile}':24}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description="robust aggregations against attacks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    rows: list[dict[str, object]] = []
    for row in measure(words.seeds):
        rows.append(row)
        if words.json:
            words.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
