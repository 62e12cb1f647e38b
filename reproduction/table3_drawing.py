"""The picture of Table III: each scheme's bytes as published and as counted, by kind.

Knows matplotlib and the columns.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report.drawing import INK, MUTED, new_figure
from cutlayer.report.vocabulary import MEMORY_KINDS
from cutlayer.units import MIB
from reproduction.table3_columns import WAYS, Column

_LABELS = {
    "printed": "Table III as published",
    "calibrated": "inferred accounting",
    "physical": "autograd, measured",
    "equations": "the paper's equations (29) to (34)",
}
# kinds of memory that a printed row stands for
_KINDS = {
    "activations": "activations",
    "model and adapters": "weights",
    "optimizer": "optimizer",
    "input": "input",
}
_DRAWN = ("activations", "weights", "adapters", "gradients", "optimizer", "input")
_GAP = 0.8


def draw(columns: Sequence[Column], setting: str) -> Figure:
    """A bar for each way of counting, in groups of schemes; call it inside `plain_style`."""
    figure = new_figure(520)
    axes = figure.subplots()
    place, places, labels = 0.0, [], []
    for column in columns:
        axes.text(0, place - 0.85, column.name, weight="bold", va="center", color=INK)
        for way in ("printed", *WAYS):
            _bar(axes, place, _sizes(column, way))
            places.append(place)
            labels.append(_LABELS[way])
            place += 1.0
        place += _GAP + 0.3
    axes.set_yticks(places, labels)
    axes.set_ylim(place - _GAP - 0.6, -1.3)
    axes.set_xlim(0, 11_800)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("MiB on a device")
    handles, names = axes.get_legend_handles_labels()
    shown = dict(zip(names, handles, strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower left", ncols=len(shown), handlelength=1.2
    )
    figure.suptitle(setting, x=0.005, ha="left", fontsize=10.5, color=MUTED)
    return figure


def _sizes(column: Column, way: str) -> dict[str, float]:
    """MiB by kind; a printed row of weights and adapters counts as weights."""
    if way == "printed":
        return {kind: float(column.printed[row]) for row, kind in _KINDS.items()}
    memory = column.counted[way]
    return {
        "activations": memory.activations / MIB,
        "weights": memory.weights / MIB,
        "adapters": memory.adapters / MIB,
        "gradients": memory.gradients / MIB,
        "optimizer": memory.optimizer / MIB,
        "input": memory.input / MIB,
    }


def _bar(axes: Axes, place: float, sizes: dict[str, float]) -> None:
    left = 0.0
    for kind in _DRAWN:
        size = sizes.get(kind, 0.0)
        word = MEMORY_KINDS[kind]
        axes.barh(place, size, left=left, height=0.72, color=word.colour, label=word.label)
        left += size
    axes.text(left + 60, place, f"{left:,.0f}", va="center", fontsize=10.5, color=INK)
