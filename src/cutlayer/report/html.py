"""`report.html`: one self-contained page about a run."""

from pathlib import Path


def write_report(directory: Path) -> Path:
    """Write `report.html` into the run directory and give its path.

    Raises:
        RunError: the directory cannot be read as a run, or the page cannot be written.
    """
    raise NotImplementedError
