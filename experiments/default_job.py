"""What does a round of the default job send, and how soon is it at 78 %?

The default job by the paper's scheme, with coded adapters, with the device part frozen, with each
sample sent once, and frozen with the devices' weights in nf4; nothing else differs.

    nice python experiments/default_job.py            # what is not there yet
    python experiments/default_job.py --table > experiments/default_job.md

Wall time: two to six minutes a run. Every run's rounds are appended to `default_job.jsonl`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cutlayer

RESULTS = Path(__file__).with_suffix(".jsonl")
WAYS: dict[str, dict[str, Any]] = {
    "sft": {"scheme": "sft"},
    "sft, adapter_codec best": {"scheme": "sft", "adapter_codec": "best"},
    "sft-frozen": {"scheme": "sft-frozen"},
    "sft-cached": {"scheme": "sft-cached"},
    "sft-frozen, base nf4": {"scheme": "sft-frozen", "devices": {"base": "nf4"}},
}
SEEDS = (0, 1, 2)
TARGET = 0.78
_KEPT = ("round", "accuracy", "delay_s", "virtual_time_s", "bytes_by_payload")


def row(way: str, seed: int, run: Path) -> dict[str, Any]:
    """What a run's rounds came to."""
    lines = (run / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [{key: json.loads(line).get(key) for key in _KEPT} for line in lines]
    config = cutlayer.read_config(run / "config.yaml")
    return {"way": way, "seed": seed, "scheme": config.scheme.name, "rounds": rounds}


def rows() -> list[dict[str, Any]]:
    """Those that were measured."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def measure() -> None:
    """Train what is not there yet, all of seed 0 first."""
    known = {(one["way"], one["seed"]) for one in rows()}
    for seed in SEEDS:
        for way, settings in WAYS.items():
            if (way, seed) in known:
                continue
            with TemporaryDirectory() as folder:
                config = cutlayer.Config(**settings, seed=seed)
                run = cutlayer.train(config, output=folder)
                found = json.dumps(row(way, seed, run.path))
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(found + "\n")


def table() -> Iterator[str]:
    """A row a run: the last round's bytes [MB] by payload, seconds, accuracy."""
    payloads = ("activation", "labels", "gradient", "adapter_up", "adapter_down")
    yield f"Bytes and seconds of round 5; simulated seconds until {TARGET:.0%} accuracy.\n"
    yield f"| way | seed | {' | '.join(f'{p} [MB]' for p in payloads)} | the round [s] |" + (
        " first round [s] | weights [MB] | accuracy after 5 rounds [%] | to the target [s] |"
    )
    yield "|" + "---|" * 12
    for one in rows():
        first, last = one["rounds"][1], one["rounds"][-1]
        sent = [f"{last['bytes_by_payload'].get(name, 0) / 1e6:.3f}" for name in payloads]
        reached = [r["virtual_time_s"] for r in one["rounds"] if r["accuracy"] >= TARGET]
        yield (
            f"| {one['way']} | {one['seed']} | {' | '.join(sent)} | {last['delay_s']:.2f} |"
            f" {first['delay_s']:.2f} | {first['bytes_by_payload']['weights'] / 1e6:.1f} |"
            f" {100 * last['accuracy']:.1f} | {f'{reached[0]:.1f}' if reached else '-'} |"
        )
    known = {(one["way"], one["seed"]) for one in rows()}
    missing = [f"{way}, seed {seed}" for seed in SEEDS for way in WAYS if (way, seed) not in known]
    if missing:
        yield "\nNot run yet: " + "; ".join(missing) + "."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="print the table, and train nothing")
    if parser.parse_args().table:
        print("\n".join(table()))
    else:
        measure()
