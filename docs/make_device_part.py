"""docs/device-part.md from measured runs: `python docs/make_device_part.py`.

The runs are those of `experiments/device_part.py`; whatever the page says of them is computed from
its rows. A test makes the page again.
"""

import math
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "device-part.md"
EXPERIMENT = ROOT / "experiments" / "device_part.py"
MADE = runpy.run_path(str(EXPERIMENT))

_BEGIN = (
    "# What training the device part brings",
    "The paper's scheme trains blocks on both sides of the cut. For the devices' side it pays with"
    " a gradient down for every mini-batch, a backward and an optimiser on the device, its adapters"
    " up and their broadcast; and each device waits for its gradient before it goes on. With"
    " [`device_part: frozen`](schemes.md#a-device-part-that-is-frozen) none of that is sent or"
    " computed.",
    "Made by `python docs/make_device_part.py` from the runs of `experiments/device_part.py`;"
    " scores, bytes and seconds are in"
    " [experiments/device_part.md](../experiments/device_part.md).",
)
_END = (
    "The runs are short, a few hundred samples: in a longer one adapters get further from what was"
    " pretrained. For your own job measure it: `cutlayer profile --cuts 4,8` trains it each way at"
    " these cuts, and says what a frozen device part loses, with its standard error"
    " ([plan.md](plan.md#measuring-what-a-codec-costs)).",
)


def page() -> str:
    """All of it."""
    cells = MADE["cells_of"](MADE["read_results"](EXPERIMENT.with_suffix(".jsonl")))
    found = "\n".join(f"* {line}" for line in (*findings(cells), adapters_share(cells)))
    return "\n\n".join([*_BEGIN, MADE["explained"](), MADE["matrix"](cells), found, *_END]) + "\n"


def findings(cells: Sequence[Any]) -> Iterator[str]:
    """What the matrix comes to, depth by depth."""
    for place, depth in enumerate(MADE["DEPTHS"]):
        own = [cell for cell in cells if cell.task.cuts.index(cell.cut) == place]
        if own:
            yield f"Cut after {depth}/12 of the blocks: {_brought(own)}{_earned(own)}"
            yield from _instead(own)


def adapters_share(cells: Sequence[Any]) -> str:
    """How much of what a trained run sends is adapters, which a codec would make smaller."""
    runs = [cell.variants[MADE["TRAINED"]][seed]["bytes"] for cell in cells for seed in cell.seeds]
    counts = {name: sum(run.get(name, 0) for run in runs) for name in _PAYLOADS}
    share = (counts["adapter_up"] + counts["adapter_down"]) / sum(counts.values())
    return (
        f"Adapters, as float32, are {100 * share:.0f} % of what the trained runs send without"
        " weights. So a trained round is mostly their seconds, and `adapter_codec` shortens it; a"
        " frozen one has none."
    )


_PAYLOADS = ("activation", "labels", "gradient", "adapter_up", "adapter_down")


def _brought(cells: Sequence[Any]) -> str:
    means = [mean(map(cell.brings, cell.seeds)) for cell in cells if not cell.task.perplexity]
    if len(means) < 2:
        return ""
    error = stdev(means) / math.sqrt(len(means))
    return (
        f"{mean(means):+.1f} points (mean over the {len(means)} tasks with an accuracy, standard"
        f" error {error:.1f}); "
    )


def _earned(cells: Sequence[Any]) -> str:
    verdicts = {cell.task.title: MADE["mostly_earns"](cell) for cell in cells}
    known = [title for title, verdict in verdicts.items() if verdict is not None]
    earning = [title for title in known if verdicts[title]]
    which = f": {'; '.join(earning)}" if 0 < len(earning) < len(known) else ""
    open_ones = f", not known of {len(cells) - len(known)}" if len(known) < len(cells) else ""
    return (
        "training the device part earns its downlink in"
        f" {len(earning)} of {len(known)} tasks{which}{open_ones}."
    )


def _instead(cells: Sequence[Any]) -> Iterator[str]:
    """How far the other ways get towards what the device part trained reaches."""
    for variant in (MADE["FROZEN"], MADE["WARM"], MADE["LONGER"]):
        runs = [
            (cell.seconds_to_target(variant, seed), cell.seconds_to_target(MADE["TRAINED"], seed))
            for cell in cells
            for seed in cell.seeds
            if seed in cell.variants[variant]
        ]
        reached = [other_s / own_s for other_s, own_s in runs if other_s is not None and own_s]
        part = f", in {mean(reached):.2f} of its seconds on average" if reached else ""
        if runs:
            yield (
                f"There, *{variant}* reaches the trained run's target in {len(reached)} of"
                f" {len(runs)} runs{part}."
            )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
