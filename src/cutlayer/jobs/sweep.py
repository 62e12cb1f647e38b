"""A sweep: a grid of settings over seeds made into runs, each trained once, several at a time.

A sweep that was killed and is started again keeps what has finished and resumes what has not. With
several workers runs are trained in processes that end when the sweep does, however it ends; a run
whose process is killed is resumed by another.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cutlayer.config.keys import Unread, unread, without
from cutlayer.config.read import (
    check_overrides,
    config_sha256,
    given_keys,
    load_values,
    overridden,
    read_written,
)
from cutlayer.config.schema import Config
from cutlayer.config.training import EngineSection, LocalEngine, with_workers
from cutlayer.errors import ConfigError, CutlayerError, RunError, quoted, shown
from cutlayer.files import alone, path_of, storage_error, write_text
from cutlayer.jobs.check import as_run, check_folder, check_given
from cutlayer.jobs.compare import (
    NamedRun,
    ToTrain,
    each_line_once,
    find_run,
    plan_run,
    train_run,
)
from cutlayer.jobs.machines import make_devices, radio_power_w
from cutlayer.jobs.workers import Engine, Local, WorkerDied, opened, spread
from cutlayer.logs import heard_through, loading, unheard
from cutlayer.report.comparison import ComparedRun, RefusedRun, check_target, check_tasks, compare
from cutlayer.report.export import write_csv, write_parquet
from cutlayer.report.run_reader import Run, RunRecord, frame_of, read_record
from cutlayer.report.sweep import (
    Cell,
    Sweep,
    baseline_number,
    run_rows,
    settings_label,
)
from cutlayer.rounds.schemes import Phase
from cutlayer.training.records import Observer

_LOG = logging.getLogger(__name__)

# Which runs a sweep is of.


Grid = Mapping[str, Sequence[Any]]

_MOST_RUNS = 10_000
_SEEDS = 3


@dataclass(frozen=True)
class PlannedCell:
    """One point of the grid: what it is called, its settings by dotted key, its run by seed."""

    label: str
    settings: Mapping[str, str]
    runs: Mapping[int, Config]


@final
class SweepFile(BaseModel):
    """A sweep in a YAML file: `grid`, by dotted key a list of values; `seeds`, how many or which;
    `base`, a configuration file beside it (none: the default job), with `settings` on top, by
    dotted key; the `target` and the `baseline` of `cutlayer sweep`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: dict[str, list[Any]]
    seeds: int | list[int] | None = None
    base: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    target: float | None = None
    baseline: str | None = None


def base_of(path: Path | None) -> tuple[Mapping[str, Any], SweepFile | None]:
    """What is varied, as a file holds it, and the sweep, where the file `path` is one. Raises
    ConfigError."""
    file = None if path is None else read_sweep(path)
    if path is None or file is None:
        return {} if path is None else load_values(path), None
    return {} if file.base is None else load_values(path.parent / file.base), file


def read_sweep(path: Path) -> SweepFile | None:
    """The sweep that a file holds; None: it is a configuration. Raises ConfigError."""
    values = load_values(path)
    if "grid" not in values:
        return None
    try:
        return SweepFile.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {key}: {first['msg']}, not {quoted(first['input'])}") from None


def which_seeds(given: int | Sequence[int] | None) -> list[int]:
    """So many from 0 on, or these; None: three. Raises ConfigError."""
    if given is None:
        return list(range(_SEEDS))
    if isinstance(given, int):
        seeds = list(range(given)) if 1 <= given <= _MOST_RUNS else []
    else:
        seeds = list(given) if all(type(one) is int and one >= 0 for one in given) else []
    if seeds and len(set(seeds)) == len(seeds):
        return seeds
    raise ConfigError(
        f"seeds {quoted(given)}: give how many, from 1 on, or different seeds from 0 on",
        thing="seeds",
    )


def planned_cells(
    base: Mapping[str, Any], settings: Mapping[str, Any], grid: Grid, seeds: Sequence[int]
) -> list[PlannedCell]:
    """Every combination of the grid's values, in its order, with every seed.

    A combination leaves out what its own choices do not read (with `fl-lora` the bits of a codec),
    and is one cell with others that are the same then; a key that no combination reads is refused.
    `base`: a configuration's values, as a file holds them; `settings` on top of it, by dotted key.

    Raises ConfigError for an empty grid, a key that is given twice, values that cannot be, and more
    runs than 10,000.
    """
    check_overrides(settings)
    _check_grid(settings, grid, seeds)
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    cells: dict[str, PlannedCell] = {}
    ignored: list[dict[str, Unread]] = []
    for point in points:
        changes = {**settings, **point}
        values = overridden(base, changes)
        config = Config.model_validate(values)
        left = {each.key: each for each in unread(config, given_keys(values, changes))}
        ignored.append(left)
        config = without(config, left)
        # of a section that is given as a whole, its name stands for it
        kept = {
            key: shown(value)
            for key, value in point.items()
            if not left.keys() & {key, f"{key}.name"}
        }
        cell = PlannedCell(_label(grid, kept), kept, _by_seed(config, seeds))
        cells.setdefault(config_sha256(config), cell)
    for key, each in ignored[0].items():
        if all(key in other for other in ignored):
            raise ConfigError(str(each))
    return list(cells.values())


def _check_grid(settings: Mapping[str, Any], grid: Grid, seeds: Sequence[int]) -> None:
    if not grid:
        raise ConfigError("a sweep varies something: give a grid, KEY=VALUE,VALUE", thing="grid")
    for key, values in grid.items():
        if key == "seed":
            raise ConfigError("the grid has seed: seeds are given apart", thing="grid")
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"the grid's {key} should be a list of values, not {quoted(values)}")
        if key in settings:
            raise ConfigError(f"{key} is in the grid and set beside it: leave out one")
        texts = [shown(value) for value in values]
        if doubled := next((text for text in texts if texts.count(text) > 1), None):
            raise ConfigError(f"the grid's {key} has {doubled} twice: leave out one")
    if "seed" in settings:
        raise ConfigError("seed is set, and seeds are given apart: leave it out", thing="seeds")
    runs = math.prod(map(len, grid.values())) * len(seeds)
    if runs > _MOST_RUNS:
        raise ConfigError(f"{runs} runs: a sweep has at most {_MOST_RUNS}; make the grid smaller")


def _by_seed(config: Config, seeds: Sequence[int]) -> dict[int, Config]:
    values = config.model_dump(mode="json", exclude_unset=True)
    return {seed: Config.model_validate({**values, "seed": seed}) for seed in seeds}


def _label(grid: Grid, kept: Mapping[str, str]) -> str:
    """`sft, codec.target_bits_up 0.3`: what tells the cell from others."""
    return settings_label({key: text for key, text in kept.items() if len(grid[key]) > 1} or kept)


# What is done about each of them, and what is written.


@final
@dataclass(frozen=True)
class Swept:
    """What came of a sweep: its cells, and the page `report` beside `runs.csv` and `rounds.csv`.
    `failed`: by run, why it has no result."""

    sweep: Sweep
    report: Path
    failed: Mapping[str, str]

    @property
    def runs(self) -> dict[str, Run]:
        """Those that ended, by label."""
        return {run.label: Run(Path(run.place)) for run in self.sweep.comparison.runs}

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each run, as in `runs.csv`: its settings, its seed, scores, seconds, bytes."""
        return [dict(row) for row in run_rows(self.sweep)]

    def to_pandas(self) -> Any:  # pandas has no types, and need not be there
        """`to_dicts` as a `pandas.DataFrame`. Raises ConfigError without pandas."""
        return frame_of(self.to_dicts())


def sweep(
    config: Config | Path | str | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    target: float | None = None,
    baseline: str | None = None,
    output: Path | str = "sweep",
    observer: Observer | None = None,
) -> Swept:
    """Every combination of the `grid`'s values with every seed, trained unless a finished run of it
    is in `output`/runs; tables and a page in `output`.

    `config`: what is varied, None: the default job; or a file that has a grid, seeds and the like
    of its own. `grid`: by dotted key the values of a setting. `seeds`: how many, from 0 on, or
    which (3). `settings`: by dotted key, on top of `config`. `workers`: how many runs at a time,
    by the configuration's engine, or, where that is local, in processes (a script then needs
    `if __name__ == "__main__"`); one: here, with `observer` as of `train`. `target`: as of
    `compare`. `baseline`: the settings that others are held against, as the table calls them;
    None: the first.

    Raises ConfigError for a grid, seeds, target or baseline that cannot be; RunError where another
    sweep is at work in `output`, or no run ends; else as `train`, of every combination before the
    first is trained.
    """
    output, settings = path_of("output", output), {} if settings is None else settings
    if not isinstance(observer, Observer | None):
        raise ConfigError(f"observer should be a cutlayer.Observer, not {quoted(observer)}")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers should be a whole number from 1 on, not {quoted(workers)}")
    if isinstance(config, Config):
        config = check_given("sweep", config)
        values: Mapping[str, Any] = config.model_dump(mode="json", exclude_unset=True)
        file = None
    else:
        values, file = base_of(None if config is None else path_of("config", config))
    if file is not None:
        if grid is not None:
            raise ConfigError(f"{config} has a grid: leave out the other", thing="grid")
        grid, settings = file.grid, {**file.settings, **settings}
        seeds = file.seeds if seeds is None else seeds
        target = file.target if target is None else target
        baseline = file.baseline if baseline is None else baseline
    if isinstance(target, bool) or not isinstance(target, int | float | None):
        raise ConfigError(f"target should be a number, not {quoted(target)}")
    check_folder(output)
    cells = planned_cells(values, settings, {} if grid is None else grid, which_seeds(seeds))
    engine = with_workers(_engine_of(cells), workers)
    cells = [_each_here(cell) for cell in cells]
    for cell in cells:
        NamedRun(cell.label, next(iter(cell.runs.values()))).check()
    with loading("`cutlayer sweep`", "train"):
        return sweep_runs(
            cells, output, engine=engine, target=target, baseline=baseline, observer=observer
        )


def _engine_of(cells: Sequence[PlannedCell]) -> EngineSection:
    """The one that all runs name, which is the sweep's. Raises ConfigError where they differ."""
    engines = [config.engine for cell in cells for config in cell.runs.values()]
    if any(engine != engines[0] for engine in engines):
        raise ConfigError("the grid has engine: a sweep has one for all runs", thing="grid")
    return engines[0]


def _each_here(cell: PlannedCell) -> PlannedCell:
    """Its runs by one worker each, the same whatever the sweep's engine is."""
    return replace(
        cell,
        runs={
            seed: config.model_copy(update={"engine": LocalEngine(cohort=config.engine.cohort)})
            if config.engine.name != "local"
            else config
            for seed, config in cell.runs.items()
        },
    )


def sweep_runs(
    cells: Sequence[PlannedCell],
    output: Path,
    *,
    engine: EngineSection | None = None,
    target: float | None = None,
    baseline: str | None = None,
    observer: Observer | None = None,
) -> Swept:
    """Check every cell, train what is not finished in `output`/runs, and write tables and page.

    Raises CutlayerError: a cell cannot be, no run ends, or another sweep works in `output`. A run
    that fails, as by diverging, is told and left out; the others go on.
    """
    base = baseline_number([cell.label for cell in cells], baseline)
    try:
        (output / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(output, error) from error
    with alone(output / ".sweep.lock", f"{output}: another sweep is at work in it"):
        plans = _plans(cells, output, target)
        done, failed = _train_all(plans, output, engine or LocalEngine(), observer)
        found = [_cell(cell, plan, done) for cell, plan in zip(cells, plans, strict=True)]
        if not done:
            raise RunError(f"no run of the sweep ended: {'; '.join(failed.values())}")
        entries = [entry for cell in found for entry in cell.runs.values() or [cell.refused]]
        comparison = compare([entry for entry in entries if entry is not None], target)
        sweep = Sweep(tuple(found), comparison, found[base])
        return Swept(sweep, _write(sweep, output, failed), failed)


Plan = RefusedRun | Mapping[int, ComparedRun | ToTrain]


def _plans(cells: Sequence[PlannedCell], output: Path, target: float | None) -> list[Plan]:
    """What is to be done of each cell. Mistakes, and devices that are too small, are found of each
    before anything is trained; seeds differ in neither."""
    known = _begun(output)
    tasks: dict[str, str] = {}
    plans: list[Plan] = []
    with heard_through(each_line_once()):
        for cell in cells:
            plan = _plan(cell, known, output, tasks)
            plans.append(plan)
    check_tasks(list(tasks.items()))
    if target is not None:
        check_target(next(iter(tasks.values())), target)
    return plans


def _plan(
    cell: PlannedCell, known: Mapping[str, Path], output: Path, tasks: dict[str, str]
) -> Plan:
    found: dict[int, ComparedRun | ToTrain] = {}
    task: str | None = None
    for seed, config in cell.runs.items():
        label, begun = f"{cell.label}, seed {seed}", known.get(_key(config))
        if begun is not None and (begun / "summary.json").is_file():
            ended = ComparedRun(label, read_record(begun), str(begun))
            found[seed], tasks[label] = ended, ended.record.summary.task
        elif task is None:
            first = plan_run(NamedRun(cell.label, config), output)
            if isinstance(first, RefusedRun):
                return first
            assert isinstance(first, ToTrain), "it has not ended"
            task = tasks[label] = first.task
            found[seed] = replace(first, label=label, begun=begun)
        else:
            found[seed] = ToTrain(label, config, task, begun)
    return found


def _begun(output: Path) -> dict[str, Path]:
    """The runs that there are by the hash of their configuration, finished ones before others."""
    found: dict[str, Path] = {}
    for path in sorted((output / "runs").glob("*/*/config.yaml")):
        try:
            key = _key(read_written(path))
        except ConfigError:  # of another version, or cut short
            continue
        if key not in found or (path.parent / "summary.json").is_file():
            found[key] = path.parent
    return found


def _key(config: Config) -> str:
    return config_sha256(as_run(config))


# how often a run goes on whose worker died
_RETRIES = 2


def _train_all(
    plans: Sequence[Plan], output: Path, section: EngineSection, observer: Observer | None
) -> tuple[dict[str, ComparedRun], dict[str, str]]:
    """The runs that ended, by label, and why others did not."""
    runs = [one for plan in plans if not isinstance(plan, RefusedRun) for one in plan.values()]
    done = {run.label: run for run in runs if isinstance(run, ComparedRun)}
    waiting = [run for run in runs if isinstance(run, ToTrain)]
    failed: dict[str, str] = {}
    if done:
        _LOG.info(f"{len(done)} of {len(runs)} runs finished before")
    if len(waiting) < 2:
        section = LocalEngine()
    with opened(section, ["cutlayer.jobs.train"]) as engine:
        ended = spread(
            engine,
            _beginning(engine, output, observer),
            _told(waiting),
            retries=_RETRIES,
            again=partial(_again, output),
        )
        with closing(ended):
            for run, place in ended:
                if isinstance(place, Path):
                    done[run.label] = ComparedRun(run.label, read_record(place), str(place))
                    score = done[run.label].record.summary.score_final
                    _LOG.info(
                        f"{run.label}: {score.measure} {score.value:.4g} ({len(done)} of"
                        f" {len(runs)} runs)"
                    )
                elif isinstance(place, CutlayerError | WorkerDied):
                    its = "its " if isinstance(place, WorkerDied) else ""
                    failed[run.label] = f"{its}{place}"
                    _LOG.warning("%s: failed: %s", run.label, failed[run.label])
                else:
                    raise place
    return done, failed


def _told(runs: Sequence[ToTrain]) -> Iterator[ToTrain]:
    for number, run in enumerate(runs, start=1):
        _LOG.info(f"{run.label}: run {number} of {len(runs)}")
        yield run


def _again(output: Path, run: ToTrain) -> ToTrain:
    """What is left of a run whose worker died."""
    _LOG.warning("%s: its process was killed: it goes on in another", run.label)
    return replace(run, begun=find_run(run.config, output))


def _beginning(
    engine: Engine, output: Path, observer: Observer | None
) -> Callable[[], Callable[[ToTrain], Path]]:
    if isinstance(engine, Local):
        return lambda: partial(_train, output=output, observer=observer)
    threads = max(1, (os.cpu_count() or 1) // engine.workers)
    return partial(partial, _train, output=output, threads=threads)


def _train(
    run: ToTrain,
    output: Path,
    observer: Observer | None = None,
    threads: int | None = None,
) -> Path:
    """One run to its end: its directory. `threads`: torch's where the run does not say; None: as
    it is, with what the run tells."""
    if threads is not None and run.config.threads is None:
        import torch  # not where runs are planned

        torch.set_num_threads(threads)
    with nullcontext() if threads is None else unheard():
        return Path(train_run(run, output, observer).place)


def _cell(cell: PlannedCell, plan: Plan, done: Mapping[str, ComparedRun]) -> Cell:
    if isinstance(plan, RefusedRun):
        return Cell(cell.label, cell.settings, {}, plan)
    ended = {seed: done[one.label] for seed, one in plan.items() if one.label in done}
    joules = {seed: _joules(cell.runs[seed], run.record) for seed, run in ended.items()}
    known = {seed: value for seed, value in joules.items() if value is not None}
    failed = len(plan) - len(ended)
    return Cell(cell.label, cell.settings, ended, None, known, failed)


# What a run's devices take.


_COMPUTES = (Phase.DEVICE_FORWARD, Phase.UPPER_COMPUTE, Phase.DEVICE_BACKWARD)
_SENDS = (Phase.ACTIVATION_UP, Phase.ADAPTER_UP)


def _joules(config: Config, record: RunRecord) -> float | None:
    """Of all rounds and the devices that take part in them [J]: while they compute, wait and
    radiate, as far as powers are known; None where what computing takes is not."""
    devices = make_devices(config.devices)
    if any(device.power_w is None for device in devices):
        return None
    radio_w = radio_power_w(config.channel) or 0.0
    total = 0.0
    for one in record.trained:
        playing = one.participants or range(len(devices))
        for number, seconds in zip(playing, one.device_delay_by_phase_s, strict=True):
            device = devices[number]
            compute_s = sum(seconds.get(phase, 0.0) for phase in _COMPUTES)
            send_s = sum(seconds.get(phase, 0.0) for phase in _SENDS)
            idle_s = max(one.delay_s - compute_s, 0.0)
            total += (device.power_w or 0.0) * compute_s + radio_w * send_s
            total += (device.idle_power_w or 0.0) * idle_s
    return total


def _write(sweep: Sweep, output: Path, failed: Mapping[str, str]) -> Path:
    """Tables and page; returns the page. Raises StorageError."""
    from cutlayer.report.sweep_page import sweep_page  # draws by matplotlib

    write_csv(sweep, output)
    if find_spec("pyarrow") is not None:
        write_parquet(sweep, output)
    write_text(output / "sweep.html", sweep_page(sweep, failed))
    return output / "sweep.html"
