"""A profile as a table for the terminal.

Knows profiles; not how they were measured.
"""

from rich import box
from rich.table import Table
from rich.text import Text

from cutlayer.planner.accuracy.profile import Point, Profile
from cutlayer.report.vocabulary import printable


def profile_table(profile: Profile) -> Table:
    """A row a point: bits per value, mean accuracy and its range over the seeds, points lost."""
    seeds = len(profile.seeds)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=Text(printable(profile.training)),
        title_justify="left",
        caption=f"accuracy of {profile.test_samples} test samples over {seeds} seed"
        f"{'s' if seeds > 1 else ''}; lost: points of its mean against none",
        caption_justify="left",
    )
    table.add_column("codec", no_wrap=True)
    table.add_column("settings", no_wrap=True)
    for label in ("bits up", "down", "mean [%]", "range [%]", "lost"):
        table.add_column(label, justify="right", no_wrap=True)
    for point in profile.points:
        table.add_row(*_cells(point, profile.uncompressed.accuracy))
    return table


def _cells(point: Point, uncompressed: float) -> tuple[str, ...]:
    low, high = (100 * end(point.accuracies) for end in (min, max))
    return (
        point.codec,
        ", ".join(f"{value:g}" for value in point.settings.values()),
        f"{point.bits_up:.3f}",
        f"{point.bits_down:.3f}",
        f"{100 * point.accuracy:.1f}",
        f"{low:.1f} to {high:.1f}",
        "" if point.codec == "none" else f"{100 * (uncompressed - point.accuracy):+.1f}",
    )
