"""Trainings spread over processes, each result as it comes.

Knows what a process trains; how it is fed and ended is `processes`'.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

from cutlayer.config.schema import Config
from cutlayer.errors import RunError
from cutlayer.profiling.log import Line
from cutlayer.profiling.processes import Died, spread
from cutlayer.profiling.trainer import Trainer, Wanted


def train_in_processes(config: Config, wanted: Sequence[Wanted], workers: int) -> Iterator[Line]:
    """Train everything `wanted`, in that order but for who ends first.

    Raises what a training raised, and RunError if a process died.
    """
    begin = partial(_trainer, config)
    with closing(spread(begin, wanted, workers)) as trained:
        for _, line in trained:
            if isinstance(line, Died):
                raise RunError(
                    f"a training run {line}; what has finished is kept: the same command goes on,"
                    " with fewer --workers if memory is short"
                )
            if isinstance(line, Exception):
                raise line
            yield line


def _trainer(config: Config) -> Callable[[Wanted], Line]:
    return Trainer(config, quiet=True).train
