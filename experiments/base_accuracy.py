"""What perplexity does each base leave, before training and after it?

SmolLM2-135M on Brown, cut after block 4, both sides' frozen weights in the same numbers; adapters
in float32, no codec. Two devices, two rounds of five local steps of two texts of 64 tokens: the
settings of `codec_accuracy.py`'s language task. The test texts are those of seed 0 for all seeds.

    python experiments/base_accuracy.py            # 4 bases x 3 seeds, what is not there yet
    python experiments/base_accuracy.py --table > experiments/base_accuracy.md

Wall time: 30 to 90 s of one core a run, some ten minutes for all; every result is appended to
`base_accuracy.jsonl` at once. Expected numbers: the committed `base_accuracy.md`.

The gain kept is the fall of perplexity from the float32 base before training, over the same of
float32: what a base loses before training counts against it. The own gain is the fall from the
same base before training. SmolLM2's weights come from a 4-bit file (Q4_1), so that nf4 rounds them
a second time; and that bfloat16, in which they are stored, is float32 but for the order of sums.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from cutlayer.config.schema import Config
from cutlayer.jobs.prepare import prepare
from cutlayer.spec import Base
from cutlayer.training.evaluation import evaluate
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round

Result = dict[str, Any]

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1, 2)
SETTINGS: dict[str, Any] = {
    "model": {"name": "smollm2", "cut": 4},
    "data": {"name": "brown", "train_samples": 20, "test_samples": 24, "max_tokens": 64},
    "partition": "iid",
    "adapter": {"rank": 8, "alpha": 8},
    "optimizer": {"name": "adamw", "learning_rate": 2e-3},
    "training": {"rounds": 2, "local_steps": 5, "batch_size": 2},
    "codec": "none",
    "threads": 1,
}


def config_of(base: Base, seed: int) -> Config:
    """The run over this base."""
    devices = {"count": 2, "memory_mib": None, "base": base.value}
    sides = {"devices": devices, "server": {"base": base.value}}
    return Config.model_validate({"scheme": "sft", **SETTINGS, **sides, "seed": seed})


def run(base: Base, seed: int) -> Result:
    """Evaluate, train, evaluate."""
    begun_s = time.process_time()
    job = prepare(config_of(base, seed))
    first = job if seed == 0 else prepare(config_of(base, 0))
    setup = replace(job.setup, server=replace(job.setup.server, test=first.setup.server.test))
    state = initial_state(setup)
    before = evaluate(setup.training, setup.server, state)
    for _ in range(job.config.training.rounds):
        state = Round(setup, state).play().state
    after = evaluate(setup.training, setup.server, state)
    return {
        "base": base.value,
        "seed": seed,
        "before": math.exp(before.loss),
        "after": math.exp(after.loss),
        "bytes": sum(part.adapted.bytes for part in setup.parts),
        "cpu_s": round(time.process_time() - begun_s, 1),
    }


def table(results: Sequence[Result]) -> str:
    """Markdown: mean over the seeds (lowest to highest)."""
    by_run = {(result["base"], result["seed"]): result for result in results}
    lines = [
        "| base | weights of both parts [MiB] | perplexity before | after | gain kept [%] |"
        " own gain over float32's [%] | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for base in Base:
        found = [by_run[base.value, seed] for seed in SEEDS if (base.value, seed) in by_run]
        if not found:
            continue
        plain = [by_run[Base.FLOAT32.value, result["seed"]] for result in found]
        pairs = list(zip(found, plain, strict=True))
        kept = [100 * gain(of["before"], own) / gain(of["before"], of) for own, of in pairs]
        own = [100 * gain(own["before"], own) / gain(of["before"], of) for own, of in pairs]
        cells = [
            base.value,
            f"{found[0]['bytes'] / 2**20:.0f}",
            spread([result["before"] for result in found], 2),
            spread([result["after"] for result in found], 2),
            spread(kept, 0),
            spread(own, 0),
            str(len(found)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gain(before: float, result: Mapping[str, float]) -> float:
    """By how much the perplexity fell."""
    return before - result["after"]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean (lowest to highest)."""
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--table", action="store_true", help="print the table; run nothing")
    parser.add_argument("--base", choices=[base.value for base in Base], action="append")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    text = given.output.read_text(encoding="utf-8") if given.output.exists() else ""
    results = [json.loads(line) for line in text.splitlines()]
    if given.table:
        print(table(results))
        return
    done = {(result["base"], result["seed"]) for result in results}
    for seed in SEEDS:
        for base in map(Base, given.base or Base):
            if (base.value, seed) not in done:
                print(f"{base.value}, seed {seed}", flush=True)
                with given.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run(base, seed)) + "\n")


if __name__ == "__main__":
    main()
