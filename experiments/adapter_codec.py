"""How few bits may adapters take, where training the device part matters?

Cut deep, the device part's adapters decide what is learned (`device_part.md`: 8 to 21 points at a
cut after 10 of 12 blocks), and they are nearly all that a device sends. Each job is trained with
every `adapter_codec`, and once with the device part frozen, which sends no adapters: what may be
lost at all. Many short rounds, so that what a packet loses has rounds to come later.

    nice python experiments/adapter_codec.py                 # all that is missing
    python experiments/adapter_codec.py --table > experiments/adapter_codec.md

Wall time: 25 to 35 s of one core a run, all of them 20 minutes; each result is appended to
`adapter_codec.jsonl` at once, and what is there is not run again. All of seed 0 comes first.
Expected numbers: the committed `adapter_codec.md`. Seconds are simulated, on the package's default
channel and devices; a later round is the last one.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from cutlayer.config.schema import Config
from cutlayer.data.assets.catalogue import CATALOGUE, cache_root, get_asset
from cutlayer.data.samples import ARRAY_FILE
from cutlayer.jobs.prepare import prepare
from cutlayer.training.evaluation import evaluate
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round

Result: TypeAlias = dict[str, Any]
Unit: TypeAlias = tuple[str, str, int]

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1, 2)
DATA = {"clothes": "Fashion-MNIST", "inverted": "Fashion-MNIST, inverted"}
NONE, FROZEN = "none", "frozen"


def best(up: float, down: float) -> dict[str, Any]:
    """At so many bits a value."""
    return {"name": "best", "target_bits_up": up, "target_bits_down": down}


CODECS: dict[str, dict[str, Any]] = {
    NONE: {"adapter_codec": "none"},
    "best 1.5 + 4": {"adapter_codec": best(1.5, 4)},
    FROZEN: {"device_part": "frozen"},
    "best 1 + 2": {"adapter_codec": best(1, 2)},
    "int8": {"adapter_codec": "int8"},
}
COMMON: dict[str, Any] = {
    "scheme": "sft",
    "codec": "best",
    "partition": "iid",
    "model": {"name": "dinov2-small", "cut": 10},
    "adapter": {"rank": 8, "alpha": 8},
    "training": {"rounds": 8, "local_steps": 4, "batch_size": 8},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    "devices": {"count": 2, "memory_mib": None},
    "threads": 1,
}


def config_of(data: str, codec: str, seed: int, folder: Path) -> Config:
    """The run's configuration; the inverted images are made in `folder`."""
    name = "fashion-mnist"
    if data == "inverted":
        name = str(folder)
        if not (folder / ARRAY_FILE).exists():
            with np.load(get_asset(CATALOGUE["fashion-mnist"], cache_root()) / ARRAY_FILE) as file:
                arrays = {
                    key: 255 - value if key.endswith("_images") else value
                    for key, value in file.items()
                }
            np.savez(folder / ARRAY_FILE, **arrays)
    about = {"name": name, "train_samples": 2400, "test_samples": 500, "image_size": 56}
    own = {"scheme": "sft", "data": about, "seed": seed}
    return Config.model_validate({**COMMON, **CODECS[codec], **own})


def run(data: str, codec: str, seed: int, folder: Path) -> Result:
    """Train, evaluate at the end; one line of the results."""
    begun_s = time.process_time()
    config = config_of(data, codec, seed, folder)
    setup = prepare(config).setup
    state, rounds = initial_state(setup), config.training.rounds
    sent, delays_s = {"adapter_up": 0, "adapter_down": 0}, []
    for number in range(rounds):
        outcome = Round(setup, state).play()
        state = outcome.state
        delays_s.append(outcome.timeline.delay_s)
        for name in sent:
            # the first that comes down is whole
            if number or name == "adapter_up":
                sent[name] += outcome.round_costs.bytes_by_payload().get(name, 0)
    evaluated = evaluate(setup.training, setup.server, state)
    values = setup.server.device_part.adapted.layout.parameters
    ways = {"adapter_up": len(setup.devices) * rounds, "adapter_down": rounds - 1}
    return {
        "data": data,
        "codec": codec,
        "seed": seed,
        "accuracy": 100 * evaluated.accuracy,
        "loss": evaluated.loss,
        "bits": {name: 8 * sent[name] / max(values * times, 1) for name, times in ways.items()},
        "seconds": delays_s,
        "cpu_s": round(time.process_time() - begun_s, 1),
    }


def read_results() -> list[Result]:
    """What has been run."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def missing(results: Sequence[Result]) -> Iterator[Unit]:
    """What is still to run, all of the first seed first."""
    done = {(one["data"], one["codec"], one["seed"]) for one in results}
    for seed in SEEDS:
        for codec in CODECS:
            for data in DATA:
                if (data, codec, seed) not in done:
                    yield data, codec, seed


def table(results: Sequence[Result]) -> Iterator[str]:
    """In Markdown; accuracy and its difference from float32's, seed by seed."""
    yield "## How few bits adapters may take"
    yield ""
    yield (
        "DINOv2-small cut after 10 of 12 blocks, 2 devices, 8 rounds of 4 local steps, 500 test"
        " images. Difference: from float32 adapters with the same seed, mean ± standard error."
        " Bits a value up / down, without the first adapter, which comes down whole."
    )
    yield ""
    yield "| data | adapters | accuracy | difference | loss | bits | a later round [s] | seeds |"
    yield "|---|---|---|---|---|---|---|---|"
    for data, title in DATA.items():
        plain = {r["seed"]: r for r in results if (r["data"], r["codec"]) == (data, NONE)}
        for codec in CODECS:
            rows = [r for r in results if (r["data"], r["codec"]) == (data, codec)]
            rows = [r for r in rows if r["seed"] in plain]
            if rows:
                yield row_of(title, codec, rows, plain)
    left = len(list(missing(results)))
    if left:
        yield ""
        yield f"Not run yet: {left} of {len(SEEDS) * len(CODECS) * len(DATA)} runs."


def row_of(title: str, codec: str, rows: Sequence[Result], plain: dict[int, Result]) -> str:
    """One line of the table."""
    apart = [r["accuracy"] - plain[r["seed"]]["accuracy"] for r in rows]
    error = f" ± {stdev(apart) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else ""
    cells = (
        title,
        codec,
        f"{mean(r['accuracy'] for r in rows):.1f}",
        "" if codec == NONE else f"{mean(apart):+.1f}{error}",
        f"{mean(r['loss'] for r in rows):.3f}",
        " / ".join(
            f"{mean(r['bits'][way] for r in rows):.2f}" for way in ("adapter_up", "adapter_down")
        ),
        f"{mean(r['seconds'][-1] for r in rows):.2f}",
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
    with TemporaryDirectory() as folder:
        for data, codec, seed in missing(read_results()):
            result = run(data, codec, seed, Path(folder))
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{data}, {codec}, seed {seed}: {result['accuracy']:.1f} %", flush=True)


if __name__ == "__main__":
    main()
