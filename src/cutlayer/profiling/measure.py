"""A profile measured: what is missing is trained, and the lines become points.

Knows the order of things and what is said of them; not how a training goes or is spread.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy.profile import Profile
from cutlayer.profiling.grid import Grid, Setting
from cutlayer.profiling.log import Line, append_line, read_lines
from cutlayer.profiling.points import About, profile_of
from cutlayer.profiling.trainer import Trainer, Wanted
from cutlayer.profiling.workers import train_in_processes
from cutlayer.train.files import storage_error
from cutlayer.units import format_seconds

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a profile is measured with: `seeds` of them from the configuration's own on, spread
    over `workers` processes (1: this one). `command` says how it was asked for."""

    config: Config
    grid: Grid
    seeds: int
    workers: int
    command: str

    def wanted(self) -> Iterator[Wanted]:
        """Every training, all of one seed before the next."""
        for seed in self.seed_numbers():
            for setting in self.grid.settings():
                yield Wanted(setting, seed)

    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.config.seed, self.config.seed + self.seeds))


def measure(plan: Plan, log: Path) -> Profile:
    """Train what is not in `log` yet, adding a line as each training ends, and make the profile.

    What can be wrong with the job is found before the first training. Raises CutlayerError.
    """
    trainer = Trainer(plan.config)
    if not trainer.compresses:
        raise ConfigError(f"profile: scheme {plan.config.scheme.name} compresses nothing; take sft")
    done = {line.key: line for line in read_lines(log, trainer.job)}
    missing = [wanted for wanted in plan.wanted() if wanted.key not in done]
    _LOG.info(
        f"{len(missing)} training runs to do, {len(list(plan.wanted())) - len(missing)} done before"
    )
    _make_room(log)
    for line in _said(_trained(plan, trainer, missing), len(missing)):
        append_line(log, line)
        done[line.key] = line
    for wanted in plan.wanted():
        if done[wanted.key].diverged:
            _LOG.info(f"{wanted}: diverged; it counts as round {done[wanted.key].rounds} left it")
    about = About(plan.config, plan.command, plan.seed_numbers(), trainer.test_samples)
    return profile_of(about, list(plan.grid.settings()), done)


def _trained(plan: Plan, trainer: Trainer, missing: Sequence[Wanted]) -> Iterator[Line]:
    if plan.workers == 1:
        return map(trainer.train, missing)
    return train_in_processes(plan.config, missing, plan.workers)


def _said(lines: Iterator[Line], count: int) -> Iterator[Line]:
    """The same lines, each told of with the time that the rest will take at this pace."""
    begun_s = time.monotonic()
    for number, line in enumerate(lines, start=1):
        yield line
        bits = "" if line.bits_up is None else f", {line.bits_up:.3f} bits up"
        bits += "" if line.bits_down is None else f", {line.bits_down:.3f} down"
        left_s = (time.monotonic() - begun_s) / number * (count - number)
        _LOG.info(
            f"{number} of {count}: {Wanted(Setting(line.codec, line.settings), line.seed)}:"
            f" {100 * line.accuracy:.1f} %{bits}"
            f"{f'  ({format_seconds(left_s)} left)' if count > number else ''}"
        )


def _make_room(log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise storage_error(log, error) from error
