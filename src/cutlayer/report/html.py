"""`report.html`: one self-contained page about a run, drawn from its directory.

Knows the frame of the page and how it reaches the disk.
"""

from pathlib import Path

from cutlayer.report import html_parts as parts
from cutlayer.report.drawing import plain_style
from cutlayer.report.page_sections import page_sections
from cutlayer.report.page_style import STYLE
from cutlayer.report.run_reader import RunRecord, read_run
from cutlayer.report.vocabulary import CLOCKS
from cutlayer.report.wording import headline
from cutlayer.train.files import write_text

REPORT = "report.html"


def write_report(directory: Path) -> Path:
    """Write `report.html` into the run directory, in one step, and give its path.

    The same run gives the same bytes.

    Raises:
        RunError: the directory cannot be read as a run, or the page cannot be written.
    """
    path = directory / REPORT
    write_text(path, page(read_run(directory)))
    return path


def page(run: RunRecord) -> str:
    """The whole page as text."""
    with plain_style():
        content = "\n".join(page_sections(run))
    footer = (
        f"Drawn from the files beside this page. Delays are {CLOCKS[run.summary.clock]} seconds;"
        " 1 MiB is 1024 · 1024 bytes."
    )
    return parts.page(headline(run.summary), content, footer, STYLE)
