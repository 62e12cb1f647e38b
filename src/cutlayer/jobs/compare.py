"""A comparison: which runs it is of, how each is found finished, refused for memory, resumed or
trained, and what is written of them.

Named are configurations, finished runs, files of either, or one file and schemes. All are checked
before any is trained, so that a mistake in the last costs no hours of the first. A comparison that
was killed and is started again keeps what has finished and resumes what has not.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

from cutlayer.config.keys import unread, without
from cutlayer.config.read import (
    config_sha256,
    config_yaml,
    flat_values,
    merged_values,
    read_config,
    read_written,
)
from cutlayer.config.schema import Config
from cutlayer.config.section import SCHEMES as PLUGINS
from cutlayer.config.section import Section, registered
from cutlayer.errors import ConfigError, CutlayerError, RunError, nearest, quoted, shown
from cutlayer.files import storage_error, write_text
from cutlayer.jobs.check import check, check_given, runs_of
from cutlayer.jobs.machines import make_devices
from cutlayer.logs import heard_through
from cutlayer.report.comparison import (
    ComparedRun,
    Comparison,
    Entry,
    RefusedRun,
    check_target,
    check_tasks,
    compare,
    comparison_rows,
)
from cutlayer.report.export import FORMATS, rows_csv
from cutlayer.report.run_reader import Run, frame_of, read_record
from cutlayer.report.sweep import Sweep, apart, by_seed, differing, grouped, settings_label
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.training.records import Observer

# Which runs a comparison is of.


@dataclass(frozen=True)
class NamedRun:
    """One of the runs to compare, by name: a configuration to run, or a run directory to read."""

    label: str
    source: Config | Path

    def check(self) -> None:
        """Raises ConfigError, naming the run, for what can be told to be wrong without torch."""
        if isinstance(self.source, Config):
            try:
                check(self.source)
            except CutlayerError as error:
                raise ConfigError(f"{self.label}: {error}") from error


Source: TypeAlias = Config | Run | Path | str


@final
@dataclass(frozen=True)
class Compared:
    """Runs side by side: the `comparison`, and the page `report` about it, beside `compare.csv`.
    `by_seed`: means over seeds, where any runs differ by their seed alone."""

    comparison: Comparison
    report: Path
    by_seed: Sweep | None = None

    @property
    def runs(self) -> dict[str, Run]:
        """Those that ended, by label."""
        return {run.label: Run(Path(run.place)) for run in self.comparison.runs}

    @property
    def refused(self) -> dict[str, str]:
        """Why the others did not fit, by label."""
        return {run.label: run.reason for run in self.comparison.refused}

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for each run, as in `compare.csv`: scores, seconds, bytes, memory; what it took to
        reach the target, None if it did not; and seconds, bytes and memory by kind."""
        return comparison_rows(self.comparison)

    def to_pandas(self) -> Any:  # pandas has no types, and need not be there
        """`to_dicts` as a `pandas.DataFrame`. Raises ConfigError without pandas."""
        return frame_of(self.to_dicts())


def named_runs(runs: Mapping[str, Source] | Sequence[Source]) -> list[NamedRun]:
    """The runs under labels of their own: given ones, or made of the paths, or of the settings in
    which configurations differ.

    Raises ConfigError for what is no run, fewer than two, or the same twice.
    """
    if isinstance(runs, Mapping):
        sources = {str(label): _source(one) for label, one in runs.items()}
    elif isinstance(runs, str | Config | Run) or not isinstance(runs, Sequence):
        raise ConfigError(f"compare takes a list of runs, or a mapping, not {quoted(runs)}")
    else:
        places = [Path(one) if isinstance(one, str) else one for one in runs]
        paths = [one.path if isinstance(one, Run) else one for one in places]
        found = [_source(one) for one in runs]
        by_path = iter(_labels([one for one in paths if isinstance(one, Path)]))
        by_config = iter(_differing([one for one in found if isinstance(one, Config)]))
        labels = [next(by_path if isinstance(one, Path) else by_config) for one in paths]
        sources = dict(zip(apart(labels), found, strict=True))
    wanted = [NamedRun(label, source) for label, source in sources.items()]
    _check_all(wanted)
    return wanted


def wanted_runs(
    paths: Sequence[Path], schemes: str | None, settings: Mapping[str, str]
) -> list[NamedRun]:
    """The runs that the arguments name, each under a name of its own; configurations are read.

    Raises ConfigError: fewer than two, the same twice, or settings for finished runs.
    """
    if schemes is not None:
        wanted = _one_with_schemes(paths, schemes, settings)
    else:
        if settings and paths and all(path.is_dir() for path in paths):
            raise ConfigError(
                f"--{next(iter(settings))}: finished runs are read, not run; leave out settings"
            )
        labels = _labels(paths)
        wanted = [
            NamedRun(label, path if path.is_dir() else read_config(path, settings))
            for label, path in zip(labels, paths, strict=True)
        ]
    _check_all(wanted, more=", or one configuration with --schemes sft,splitlora")
    return wanted


def _one_with_schemes(
    paths: Sequence[Path], schemes: str, settings: Mapping[str, str]
) -> list[NamedRun]:
    if len(paths) > 1 or any(path.is_dir() for path in paths):
        raise ConfigError(
            f"--schemes {schemes}: give one configuration file, or none for the default job"
        )
    if "scheme" in settings or "scheme.name" in settings:
        raise ConfigError("--scheme and --schemes: give one of them")
    names = [name for name in re.split(r"[,\s]+", schemes) if name]
    names = list(SCHEMES) if names == ["all"] else names
    for name in names:
        if name not in SCHEMES and ":" not in name and name not in registered(PLUGINS):
            raise ConfigError(f"unknown scheme {name}; {nearest(name, list(SCHEMES))}")
    path = paths[0] if paths else None
    return _each_scheme(path, settings, names)


def _each_scheme(
    path: Path | None, settings: Mapping[str, str], names: Sequence[str]
) -> list[NamedRun]:
    """One configuration with each scheme, which leaves out what that scheme does not read; what
    none of them reads is refused."""
    values = [merged_values(path, {**settings, "scheme": name}) for name in names]
    configs = [Config.model_validate(each) for each in values]
    ignored = [{each.key: each for each in unread(config, settings)} for config in configs]
    for key, each in (ignored[0] if ignored else {}).items():
        if all(key in other for other in ignored):
            raise ConfigError(str(each))
    return [
        NamedRun(name, without(config, own))
        for name, config, own in zip(names, configs, ignored, strict=True)
    ]


def _labels(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    whole = [path.resolve() for path in paths]
    plain = [path if path.is_dir() else path.with_suffix("") for path in whole]
    deepest = max((len(path.parts) for path in plain), default=1)
    for depth in range(1, deepest + 1):
        labels = ["/".join(path.parts[-depth:]) for path in plain]
        if len(set(labels)) == len(labels):
            return labels
    # a.yaml beside a.yml, or the same path twice
    return [str(path) for path in paths]


def _source(given: Source) -> Config | Path:
    """What it is: a configuration to run, or a run directory to read."""
    if isinstance(given, Run):
        return given.path
    if isinstance(given, str | Path):
        return Path(given) if Path(given).is_dir() else read_config(given)
    if not isinstance(given, Config):
        raise ConfigError(
            f"compare takes configurations, runs and paths of either, not {quoted(given)}"
        )
    return check_given("compare", given)


def _differing(configs: Sequence[Config]) -> list[str]:
    """What tells each from the others: `codec none`, `sl`."""
    values = [_settings_read(config) for config in configs]
    keys = differing(values)
    told = [{key: each[key] for key in keys if key in each} for each in values]
    return [
        settings_label(own) or each["scheme.name"] for own, each in zip(told, values, strict=True)
    ]


def _check_all(wanted: Sequence[NamedRun], *, more: str = "") -> None:
    if len(wanted) < 2:
        raise ConfigError(
            f"compare: give two runs or more, configurations or directories of runs{more}"
        )
    _refuse_the_same(wanted)


def _refuse_the_same(wanted: Sequence[NamedRun]) -> None:
    seen: dict[str, str] = {}
    for one in wanted:
        source = one.source
        key = str(source.resolve()) if isinstance(source, Path) else config_sha256(source)
        if key in seen:
            raise ConfigError(f"{seen[key]} and {one.label} are the same run: leave out one")
        seen[key] = one.label


# What is done about each of them, and what is written.


_LOG = logging.getLogger(__name__)

# of a folder's name
_LONGEST = 120


@dataclass(frozen=True)
class ToTrain:
    """A run that fits; `begun`: its directory, if an earlier comparison was stopped in it."""

    label: str
    config: Config
    task: str
    begun: Path | None


def compare_runs(
    wanted: Sequence[NamedRun],
    output: Path,
    target: float | None = None,
    observer: Observer | None = None,
) -> Compared:
    """Check all runs, train those that are not finished in `output`/runs, compare them, and write
    compare.csv and compare.html into `output`.

    A run that its devices cannot hold is part of the comparison as such. Raises CutlayerError: a
    run cannot be for another reason, none fits, or they cannot be compared or written.
    """
    with heard_through(each_line_once()):
        plans = [plan_run(one, output) for one in wanted]
    tasks = [(plan.label, task) for plan in plans if (task := task_of(plan)) is not None]
    if tasks:
        check_tasks(tasks)
        if target is not None:
            check_target(tasks[0][1], target)
    entries: list[Entry] = []
    for number, plan in enumerate(plans, start=1):
        if isinstance(plan, ToTrain):
            _LOG.info(f"{plan.label}: run {number} of {len(plans)}")
            entries.append(train_run(plan, output, observer))
        else:
            entries.append(plan)
    comparison = compare(entries, target)
    seeds = by_seed(comparison)
    return Compared(comparison, _write(comparison, seeds, output), seeds)


def _write(comparison: Comparison, seeds: Sweep | None, output: Path) -> Path:
    """Table and pages; returns the page. Raises RunError: they cannot be written."""
    from cutlayer.report.compare_page import compare_page  # draw by matplotlib
    from cutlayer.report.sweep_page import sweep_page

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(output, error) from error
    write_text(output / "compare.csv", rows_csv(comparison_rows(comparison)))
    write_text(output / "compare.html", compare_page(comparison))
    if seeds is not None:
        write_text(output / "seeds.html", sweep_page(seeds, {}))
    return output / "compare.html"


def plan_run(wanted: NamedRun, output: Path) -> Entry | ToTrain:
    """What is to be done about one run, which is made ready to find that out unless it has ended.
    Raises CutlayerError, naming the run."""
    source = wanted.source
    if isinstance(source, Path):
        return ComparedRun(wanted.label, read_record(source), str(source))
    found = find_run(source, output)
    if found is not None and (found / "summary.json").is_file():
        _LOG.info(f"{wanted.label}: finished before, in {found}")
        return ComparedRun(wanted.label, read_record(found), str(found))
    try:
        return _check_memory(wanted.label, source, found)
    except CutlayerError as error:
        raise ConfigError(f"{wanted.label}: {error}") from error


def _check_memory(label: str, config: Config, begun: Path | None) -> RefusedRun | ToTrain:
    """Make the run ready, memory aside, and hold what a device needs against what it has."""
    from cutlayer.jobs.prepare import prepare  # needs torch
    from cutlayer.training.memory import device_needs

    boundless = config.devices.model_copy(update={"memory_mib": None})
    changes: dict[str, Section] = {"devices": boundless}
    if config.adapter.rank == "memory":  # the least that a device may have
        changes["adapter"] = config.adapter.model_copy(update={"rank": 1})
    job = prepare(config.model_copy(update=changes))
    needs = zip(make_devices(config.devices), device_needs(job.setup, job.memory), strict=True)
    short = [
        (own.memory_bytes, need)
        for own, need in needs
        if own.memory_bytes is not None and own.memory_bytes < need.total
    ]
    if short:
        limit, need = min(short, key=lambda each: each[0] - each[1].total)
        refused = RefusedRun(label, config_yaml(config), asdict(need), limit)
        _LOG.info(f"{label}: {refused.reason}")
        return refused
    return ToTrain(label, config, job.prepared.task, begun)


def train_run(plan: ToTrain, output: Path, observer: Observer | None) -> ComparedRun:
    """Train what is left of it, in `output`/runs. Raises CutlayerError."""
    from cutlayer.jobs.train import resume, start  # need torch

    if plan.begun is not None:
        directory = resume(plan.begun, observer).path
    else:
        folder = re.sub(r"[^A-Za-z0-9._-]+", "-", plan.label).strip(".-")[:_LONGEST] or "run"
        directory = start(plan.config, output / "runs" / folder, observer).path
    return ComparedRun(plan.label, read_record(directory), str(directory))


def find_run(config: Config, output: Path) -> Path | None:
    """The run directory of exactly this configuration in `output`, a finished one first."""
    same = runs_of(config, (output / "runs").glob("*/*"))
    return max(same, key=lambda path: (path / "summary.json").is_file(), default=None)


# What runs came to, as files for others' tools.


def export_results(
    paths: Sequence[Path],
    to: Path,
    kind: str,
    *,
    target: float | None = None,
    baseline: str | None = None,
) -> list[Path]:
    """Write finished runs as files of a `kind` of `FORMATS` into the folder `to`; gives the files.

    `paths`: run directories, and folders of such, as of a sweep. `target`: the score that counts as
    reached, None: the worst of the runs' best. `baseline`: the settings that others are held
    against, as the tables call them, None: the first.

    Raises ConfigError: another kind, target or baseline, runs of different tasks or scores, two of
    the same settings and seed, a package that is missing; RunError for what is no finished run.
    """
    if kind not in FORMATS:
        raise ConfigError(
            f"unknown format {quoted(kind)}; {nearest(kind, [*FORMATS])}", thing="format"
        )
    found = _finished(paths)
    labels = _labels(found)
    runs = [
        ComparedRun(label, read_record(path), str(path))
        for label, path in zip(labels, found, strict=True)
    ]
    settings = [_settings_read(read_written(path / "config.yaml")) for path in found]
    results = grouped(compare(runs, target), settings, baseline)
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(to, error) from error
    return FORMATS[kind](results, to)


def _settings_read(config: Config) -> dict[str, str]:
    """By dotted key; without those that its own choices do not read, such as the codec's of a
    scheme without activations."""
    values = flat_values(config)
    left = {each.key for each in unread(config, values)}
    return {key: shown(value) for key, value in values.items() if key not in left}


def _finished(paths: Sequence[Path]) -> list[Path]:
    """The finished runs among them and in them, each once. Raises RunError."""
    found: dict[Path, Path] = {}
    for path in paths:
        if (path / "config.yaml").is_file():
            found.setdefault(path.resolve(), path)
            continue
        if not path.is_dir():
            raise RunError(f"{path}: no such run directory")
        places = ("*/config.yaml", "*/*/config.yaml", "runs/*/*/config.yaml")
        within = sorted({one.parent for place in places for one in path.glob(place)})
        ended = [one for one in within if (one / "summary.json").is_file()]
        if not ended:
            raise RunError(f"{path}: neither a run directory nor a folder of finished runs")
        for one in within:
            if one not in ended:
                _LOG.warning(f"{one} has not ended: it is left out")
        found |= {one.resolve(): one for one in ended if one.resolve() not in found}
    if not found:
        raise ConfigError("export: which runs? give their directories, such as runs/NAME-001")
    return list(found.values())


def task_of(plan: Entry | ToTrain) -> str | None:
    """The task; None of what did not fit."""
    if isinstance(plan, RefusedRun):
        return None
    return plan.task if isinstance(plan, ToTrain) else plan.record.summary.task


def each_line_once() -> Callable[[logging.LogRecord], bool]:
    """Runs of one model say the same of it: a line that was said is not said again."""
    said: set[str] = set()

    def once(record: logging.LogRecord) -> bool:
        known, line = len(said), record.getMessage()
        said.add(line)
        return len(said) > known

    return once
