"""Many device sessions in one process, each as `cutlayer join` runs it: for `load.py`.

    python benchmarks/load_devices.py FOLDER PORT FIRST COUNT

Prints one line of JSON at the end: a list of what went wrong.
"""

import asyncio
import json
import logging
import sys
from pathlib import Path

from load_site import Site, name

from cutlayer.config.join import join
from cutlayer.net.compute import in_place


class _Complaints(logging.Handler):
    """Warnings of the sessions, and connections that were lost."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.connections = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.connections += text.startswith("connected to")
        if record.levelno >= logging.WARNING:
            self.lines.append(text)


async def take_part(site: Site, port: int, numbers: range) -> list[str]:
    """All sessions at once; the errors with which they ended."""
    sessions = (join(site.joining(number, port), in_place) for number in numbers)
    ends = await asyncio.gather(*sessions, return_exceptions=True)
    return [
        f"{name(number)}: {end!r}"
        for number, end in zip(numbers, ends, strict=True)
        if end is not None
    ]


def main(folder: str, port: str, first: str, count: str) -> None:
    """Take part with devices `first` and on."""
    complaints = _Complaints()
    logger = logging.getLogger("cutlayer")
    logger.setLevel(logging.INFO)
    logger.addHandler(complaints)
    numbers = range(int(first), int(first) + int(count))
    errors = asyncio.run(take_part(Site(Path(folder)), int(port), numbers))
    again = complaints.connections - len(numbers)
    if again:
        complaints.lines.append(f"{again} connections more than devices")
    print(json.dumps([*errors, *complaints.lines]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
