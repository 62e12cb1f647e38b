"""A run that kills itself with SIGKILL in the middle of a round; started by a test.

Arguments: configuration file, output directory, round, local step.
"""

import os
import signal
import sys
from pathlib import Path

from cutlayer.config.read import read_config
from cutlayer.jobs.train import start
from cutlayer.training.records import Observer, RoundRecord


class Killer(Observer):
    """Ends the process without warning at its moment."""

    def __init__(self, round_number: int, step: int) -> None:
        self._moment = (round_number, step)

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Kill at the moment."""
        if (round_number, done) == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def round_done(self, record: RoundRecord) -> None:
        """Nothing."""


if __name__ == "__main__":
    config, output, round_number, step = sys.argv[1:]
    start(read_config(Path(config)), Path(output), Killer(int(round_number), int(step)))
