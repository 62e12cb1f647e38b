"""What is drawn in a figure: its boxes by colour and its texts; and that no two labels overlap."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.text import Text


def boxes_of(axes: Axes) -> dict[str, np.ndarray]:
    """By colour: left, right, bottom, top of each box."""
    boxes = {}
    for patch in axes.findobj(PathPatch):
        # four corners, and a vertex that closes the outline and stands nowhere
        corners = np.asarray(patch.get_path().vertices).reshape(-1, 5, 2)[:, :4]
        low, high = corners.min(axis=1), corners.max(axis=1)
        colour = "#" + "".join(f"{round(255 * part):02x}" for part in patch.get_facecolor()[:3])
        boxes[colour] = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    return boxes


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that a viewer sees: ticks outside the limits exist, but are not drawn."""
    axis_of = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {tick: axis for axis in axis_of for tick in axis.get_major_ticks()}
    labels = {label for tick in ticks for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if text not in labels]
    for tick, axis in ticks.items():
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1] if low <= tick.get_loc() <= high else []
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def assert_labels_apart(figure: Figure) -> None:
    """No two texts of a figure overlap, and none is outside it (slanted ones are left out)."""
    figure.draw_without_rendering()
    upright = [text for text in drawn_texts(figure) if text.get_rotation() in (0, 90)]
    boxes = [text.get_window_extent() for text in upright]
    for box, text in zip(boxes, upright, strict=True):
        # within a pixel: the layout solver works with floats
        assert figure.bbox.padded(1).containsx(box.x0), text
        assert figure.bbox.padded(1).containsx(box.x1), text
        assert figure.bbox.padded(1).containsy(box.y0), text
        assert figure.bbox.padded(1).containsy(box.y1), text
    edges = np.array([box.extents for box in boxes])
    for first, second in itertools.combinations(range(len(boxes)), 2):
        width, height = np.minimum(edges[first, 2:], edges[second, 2:]) - np.maximum(
            edges[first, :2], edges[second, :2]
        )
        assert width < 1 or height < 1, (upright[first], upright[second])
