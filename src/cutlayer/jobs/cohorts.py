"""The cohorts of a run's rounds, played by an engine's workers.

Each worker makes both parts of the model once, over frozen weights that all workers of a machine
share, and plays cohorts as this process would: the same inputs, the same bits. So one whose worker
died is played again by another. Knows no round: what is summed up of cohorts is `training.round`'s.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch

from cutlayer.config.schema import Config
from cutlayer.config.training import LocalEngine
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.workers import Pool, Shared, WorkerDied, opened
from cutlayer.model.placement import HOST
from cutlayer.rounds.schemes import SCHEMES, Scheme
from cutlayer.training.cohort import (
    Cohort,
    CohortEnd,
    CohortStart,
    PlayCohorts,
    StepDone,
)
from cutlayer.training.state import Setup

_LOG = logging.getLogger(__name__)

# how often a cohort is played again whose worker died
_RETRIES = 2

# its place among the round's, and what it begins with
_Numbered: TypeAlias = tuple[int, CohortStart]


@contextmanager
def playing(config: Config, setup: Setup) -> Iterator[PlayCohorts | None]:
    """Who plays the cohorts of a run (None: this process). The workers end with the context.

    Raises ConfigError for a run that workers cannot play, RunError for workers that cannot be had.
    """
    if isinstance(config.engine, LocalEngine):
        yield None
        return
    _check(config, setup)
    with opened(config.engine, [__name__]) as engine:
        threads = config.threads or max(1, (os.cpu_count() or 1) // engine.workers)
        shared = engine.share(_for_workers(setup))
        begin = partial(_player, shared, threads)
        with closing(Pool(engine, begin, retries=_RETRIES, again=_again)) as pool:
            yield partial(_play, pool, setup)


def _check(config: Config, setup: Setup) -> None:
    engine, scheme = config.engine.name, setup.training.scheme
    if not scheme.apart:
        able = ", ".join(each.name for each in SCHEMES.values() if each.apart)
        raise ConfigError(
            f"engine {engine}: the devices of {scheme.name} {_why(scheme)}, so no two workers can"
            f" play it at once; set engine to local, or scheme to one of {able}"
        )
    below, above = (part.adapted.device for part in setup.parts)
    for section, device in (("devices", below), ("server", above)):
        if device != HOST:
            raise ConfigError(
                f"engine {engine} computes on processors, and {section}.device is {device}: set"
                f" {section}.device to cpu, or engine to local"
            )


def _why(scheme: Scheme) -> str:
    if scheme.cached:
        return "share one cache of activations"
    return "follow one another"


def _for_workers(setup: Setup) -> Setup:
    """The same without what is evaluated, which is not theirs."""
    train = setup.devices[0].train
    return replace(setup, server=replace(setup.server, test=train, watched=None))


def _player(shared: Shared[Setup], threads: int) -> Callable[[_Numbered], CohortEnd]:
    """In a worker: what plays a cohort."""
    torch.set_num_threads(threads)
    return partial(_play_one, shared())


def _play_one(setup: Setup, numbered: _Numbered) -> CohortEnd:
    _, start = numbered
    return Cohort(setup, start).play()


def _again(numbered: _Numbered) -> _Numbered:
    number, start = numbered
    _LOG.warning(
        "round %d: the worker of cohort %d died: another plays its %d devices again",
        start.index,
        number + 1,
        len(start.devices),
    )
    return numbered


def _play(
    pool: Pool[_Numbered, CohortEnd],
    setup: Setup,
    starts: Sequence[CohortStart],
    step_done: StepDone,
) -> list[CohortEnd]:
    """In this process: what became of each, in the order given, whoever was first."""
    ends: dict[int, CohortEnd] = {}
    done, total = 0, sum(setup.steps_of(start.devices) for start in starts)
    with closing(pool.each(enumerate(starts))) as played:
        for (number, start), end in played:
            if isinstance(end, WorkerDied):
                raise RunError(
                    f"round {start.index}: the workers that played cohort {number + 1} of"
                    f" {len(starts)} died, {1 + _RETRIES} of them; of the last one the {end}: lower"
                    " engine.workers, training.batch_size or server.group if memory is short"
                )
            if isinstance(end, Exception):
                raise end
            ends[number] = end
            done += setup.steps_of(start.devices)
            step_done(done, total)
    return [ends[number] for number in range(len(starts))]
