"""What can be told of a run before torch is imported and weights or data are found."""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, final, get_args

import numpy as np

from cutlayer.config.choices import TracesSection
from cutlayer.config.keys import refuse_unread
from cutlayer.config.read import check_overrides, read_written
from cutlayer.config.schema import (
    Choice,
    Config,
    DataSection,
    EvenPlanner,
    FixedPlanner,
    NetSection,
    PluginPlanner,
)
from cutlayer.config.section import AGGREGATIONS, PARTITIONS, PluginSection
from cutlayer.data.chats import template_text
from cutlayer.data.check import asked_task, check_sizes, known_task, other_task
from cutlayer.data.find import Hub, check_name, find_config, holds_model, is_hub_id
from cutlayer.data.partition import PARTITION_ARGUMENTS
from cutlayer.errors import (
    AssetError,
    ConfigError,
    IdentityError,
    RunError,
    needing,
    quoted,
)
from cutlayer.jobs.build import (
    check_steps,
    count_micro_batches,
    fixed_shares,
    make_channel,
    make_codecs,
    make_rules,
    most_shares,
    plugged_allocation,
)
from cutlayer.jobs.machines import make_devices, make_population, make_server
from cutlayer.jobs.model_spec import planned_model
from cutlayer.jobs.plugins import check_plugin, plugged
from cutlayer.jobs.ranks import check_ranks
from cutlayer.jobs.scheme import make_merging, make_scheme, read_own_profile, settled, warm_rounds
from cutlayer.logs import unheard
from cutlayer.model.described import likely_tasks
from cutlayer.net.wire.link import device_name
from cutlayer.net.wire.listener import listening_sockets
from cutlayer.planner.allocation import ObservedRound, ask_shares
from cutlayer.planner.profile import Profile
from cutlayer.rounds.participants import RoundEnd
from cutlayer.rounds.schemes import SFT, SFT_OVERLAP
from cutlayer.spec import Device, Task

# Everything about a run that can be told before torch is imported and weights or data are fetched.
#
# `train`, `plan`, `serve`, `lab`, `compare` and `profile` ask this first; each file and each rule
# is asked where it is used, too, by the same code.


# as architectures that can be split name them in their config.json
_BLOCKS = ("num_hidden_layers", "n_layer", "n_layers")
_WIDTH = ("hidden_size", "n_embd", "dim")
_TOKENS = ("max_position_embeddings", "n_positions")
_PATCH = ("patch_size",)


def check_given(what: str, config: object, also_read: Collection[str] = ()) -> Config:
    """The configuration, with its values read if they were put in unread (`model_copy`).

    Raises ConfigError for what is none, has values that cannot be, or settings that nobody reads,
    but for those that are `also_read`. `what`: the function that it was given to.
    """
    if not isinstance(config, Config):
        text = isinstance(config, str | os.PathLike)
        values = isinstance(config, Mapping)
        hint = ": read it by read_config" if text else ": make it by Config(...)" if values else ""
        raise ConfigError(f"{what} takes a cutlayer.Config, not {quoted(config)}{hint}")
    read = Config.model_validate(config.model_dump(warnings=False))
    config = config if read == config else read
    refuse_unread(config, also_read=also_read)
    return config


def check_kind(kind: type, what: str, **given: object) -> None:
    """Raises ConfigError for an argument, by its name, that is not of this kind, `what` in words:
    text would be as true as True."""
    for name, value in given.items():
        if type(value) is not kind:
            raise ConfigError(f"{name} should be {what}, not {quoted(value)}")


def check(config: Config, *, cut: bool = True, dealt: bool = True, read: bool = True) -> None:
    """Raises CutlayerError for what cannot be, as far as `config.json` and small files say.

    `cut`: whether the configured cut is to be made; `dealt`: whether devices share the samples;
    `read`: whether the data are. Imports torch for another package's aggregation alone.
    """
    samples, count = config.data.train_samples, config.devices.count
    if dealt and samples is not None and samples < count:
        raise ConfigError(
            f"data.train_samples {samples} are too few for {count} devices: raise it, or lower"
            " devices.count"
        )
    devices, scheme = make_devices(config.devices), make_scheme(config)
    make_server(config.server)
    check_steps(config.training)
    count_micro_batches(config.training, scheme)
    make_merging(config.aggregation, scheme)
    check_ranks(config, scheme)
    warm_rounds(config)
    make_rules(config)
    check_devices(config.net.devices, count)
    make_round_end(config.net, config.devices.per_round or count)
    make_population(config, make_scheme(config))
    make_codecs(config.codec, packets=1)
    shares = fixed_shares(config, len(devices))
    most_shares(config.planner, len(devices))
    make_channel(config, devices).rates(1, 0.0, shares.value)
    _check_allocation(config, devices)
    _check_aggregation(config)
    if isinstance(config.partition, PluginSection):
        check_plugin("partition", config.partition, PARTITIONS, PARTITION_ARGUMENTS)
    _check_texts(config.data)
    if read:
        check_name(config.data.name, "data")
    settings = _model_settings(config.model.name)
    if settings is not None:
        check_model(config, settings, cut=cut)
        task = _check_task(config, settings, read)
        make_devices(config.devices, task)  # a profile has rates of some tasks
        make_server(config.server, task)


def _check_texts(section: DataSection) -> None:
    """Raises ConfigError for settings of a language model's data that cannot be together."""
    asked_task(section.task, section.format)
    if section.chat_template is not None:
        template_text(section.chat_template)
    if section.format == "text" and section.loss_on not in (None, "all"):
        raise ConfigError(
            f"data.loss_on is {section.loss_on}, but data.format is text, which has no turns: set"
            " it to all, or leave it out"
        )


# in asking what is another package's: a second, and 125 kB
_ASKED_S, _ASKED_BITS = 1.0, 1e6
_ASKED_DEVICES, _ASKED_VALUES = 100, 8


def _check_allocation(config: Config, devices: Sequence[Device]) -> None:
    """Raises ConfigError for another package's allocation that divides no bandwidth."""
    if not isinstance(config.planner, PluginPlanner):
        return
    allocation, channel = plugged_allocation(config, config.planner), make_channel(config, devices)
    seconds = np.full(len(devices), _ASKED_S)
    bits = np.full(len(devices), _ASKED_BITS)
    observed = ObservedRound(seconds, bits, bits, bits)
    shares = ask_shares(allocation, 1, observed, channel.curves(1, 0.0))
    channel.rates(1, 0.0, shares)


def _check_aggregation(config: Config) -> None:
    """Raises CutlayerError for another package's aggregation that makes no row of some."""
    section = config.aggregation
    if not isinstance(section, PluginSection):
        return
    with needing(f"aggregation {section.name}", "train"):
        import torch

        from cutlayer.model.optimizer import Aggregation, merged
    made = plugged("aggregation", section, Aggregation, {}, group=AGGREGATIONS)  # type: ignore[type-abstract]
    count = min(config.devices.count, _ASKED_DEVICES)
    rows = torch.arange(float(count * _ASKED_VALUES)).reshape(count, _ASKED_VALUES)
    merged(made, rows, [1.0] * count)


def make_round_end(net: NetSection, count: int) -> RoundEnd:
    """When rounds over a network close. Raises ConfigError for a quorum or times that cannot be."""
    return RoundEnd(count, net.quorum or count, net.deadline_s, net.give_up_s)


def check_devices(names: Sequence[str], count: int) -> None:
    """Raises ConfigError for names that no device can have, or of others than so many devices."""
    for name in names:
        try:
            device_name(name)
        except IdentityError as error:
            raise ConfigError(f"net.devices: {error}") from error
    if names and (len(names) != count or len(set(names)) != count):
        raise ConfigError(
            f"net.devices lists {len(names)} names for devices.count {count}: give each device one"
            " of its own, or leave it empty"
        )


def check_model(config: Config, settings: Mapping[str, Any], *, cut: bool = True) -> None:
    """Cut, rank and sizes of samples against what a model's `config.json` says of them. Raises
    ConfigError."""
    name, adapter = config.model.name, config.adapter
    rank = max(adapter.largest_rank, *adapter.rank_pattern.values(), 0)
    key = "adapter.rank" if rank == adapter.largest_rank else "adapter.rank_pattern"
    sizes = config.data.image_size, config.data.max_tokens
    check_sizes(*sizes, name, limit=_number(settings, _TOKENS), side=_number(settings, _PATCH))
    blocks, width = _number(settings, _BLOCKS), _number(settings, _WIDTH)
    cut = cut and make_scheme(config).splits
    if cut and blocks is not None and config.model.cut >= blocks:
        raise ConfigError(
            f"model.cut is {config.model.cut}; {name}, of {blocks} blocks, can be cut after block"
            f" 1..{blocks - 1}"
        )
    last = max(adapter.layers or (0,))
    if blocks is not None and last >= blocks:
        raise ConfigError(
            f"adapter.layers lists block {last}; {name} has {blocks}, from 0 to {blocks - 1}"
        )
    if width is not None and rank > width:
        raise ConfigError(
            f"{key} {rank} is above {width}, the width of {name}: lower it, 8 to 64 are usual"
        )


def _check_task(config: Config, settings: Mapping[str, Any], read: bool) -> Task | None:
    """The task, where it is known.

    Raises DataError where the model is for other tasks than the one that is asked for, or that the
    data are for, if they are known and `read`.
    """
    task = asked_task(config.data.task, config.data.format)
    if task is None and read:
        task = known_task(config.data.name)
    serves = likely_tasks(settings)
    if task is not None and serves and task not in serves:
        raise other_task(config.model.name, serves, config.data.name, task)
    return serves[0] if task is None and len(serves) == 1 else task


def _number(settings: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = (settings[name] for name in names if name in settings)
    return next((value for value in found if type(value) is int and value > 0), None)


def _model_settings(name: str) -> dict[str, Any] | None:
    """The model's `config.json` if it lies on this machine, outside the hub's own cache.

    Raises AssetError for a name that nobody can have.
    """
    try:
        with unheard():  # the hub is not asked
            folder = find_config(name, hub=_NotAsked()).path
    except AssetError:
        if is_hub_id(name) or Path(name).expanduser().exists():
            return None  # whoever loads it looks further, and says what is wrong
        raise
    with contextlib.suppress(OSError, ValueError, RecursionError):
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return settings if isinstance(settings, dict) else None
    return None


@final
class _NotAsked(Hub):
    """No hub: it may take seconds."""

    def model(self, hub_id: str) -> NoReturn:
        raise AssetError("not asked")

    config = data = model


# What a plan keeps to, and no run asks.


def check_limits(config: Config) -> None:
    """Raises CutlayerError for what no plan of a configuration could keep to, though a run does not
    ask: its profile, its least cut, what it keeps; and for adapters on layers that the model does
    not have.

    Counts a model once whose layers are named, where torch is there and `config.json` at hand.
    """
    check_fixed(config, read_own_profile(config))
    settings, least = _model_settings(config.model.name) or {}, config.planner.least_cut
    blocks = _number(settings, _BLOCKS)
    if blocks is not None and least >= blocks and make_scheme(config).splits:
        raise ConfigError(
            f"planner.least_cut is {least}, but {config.model.name}, of {blocks} blocks, can be cut"
            f" after block 1..{blocks - 1}: lower it"
        )
    if blocks is not None and config.adapter.targets != "all" and find_spec("torch") is not None:
        with unheard(), contextlib.suppress(AssetError):
            planned_model(config, hub=_NotAsked())


def check_fixed(config: Config, profile: Profile | None) -> None:
    """Raises ConfigError for what cannot stay as it is (`planner.fix`) while the rest is chosen, a
    codec by the `profile`."""
    section, scheme = config.planner, make_scheme(config)
    fix, cut = set(section.fix), config.model.cut
    left = set(get_args(Choice)) - fix
    left -= set() if scheme in (SFT, SFT_OVERLAP) else {"scheme"}
    left -= set() if scheme.splits else {"cut"}
    left -= set() if scheme.compressed and profile is not None else {"codec"}
    if fix and not left:
        raise ConfigError(
            f"planner.fix [{', '.join(section.fix)}] leaves nothing to choose: leave one of them"
            " out, or plan the configuration as it is, fixed",
            thing="fixed",
        )
    if "cut" in fix and scheme.splits and cut < section.least_cut:
        raise ConfigError(
            f"planner.fix keeps model.cut {cut}, and planner.least_cut is {section.least_cut}:"
            " raise the one or lower the other"
        )
    if "cut" in fix and section.cuts == "per-device":
        raise ConfigError(
            "planner.fix keeps the cut, and planner.cuts is per-device: leave one of them out"
        )
    if "shares" in fix and not isinstance(section, EvenPlanner | FixedPlanner):
        raise ConfigError(
            f"planner.fix keeps the shares, and planner {section.name} has none: set planner to"
            " fixed or even, or leave shares out"
        )


# Files that a command writes: whether they can be, before it works, and all of them or none.
#
# Imports no torch.


def check_folder(path: Path) -> None:
    """Raises RunError if the folder `path` neither is nor can be made, or takes no files.

    Leaves nothing behind.
    """
    there = path.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".cutlayer-"):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_file(path: Path) -> None:
    """The same for a file and its folder."""
    if path.is_dir():
        raise RunError(f"{path} is a directory: name a file in it as output", thing="output")
    check_folder(path.parent)


def write_together(folder: Path, texts: Mapping[str, str | None]) -> None:
    """Write these files, by name, and delete those that are None: each whole, in one go at the end.

    Raises RunError; what could not be written is then as it was.
    """
    new = {name: folder / f".{name}.{os.getpid()}" for name, text in texts.items() if text}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in new.items():
            path.write_text(texts[name] or "", encoding="utf-8")
        for name in texts.keys() - new.keys():
            (folder / name).unlink(missing_ok=True)
        for name, path in new.items():
            path.replace(folder / name)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        for path in new.values():
            path.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> RunError:
    why = error.strerror or str(error)
    return RunError(f"cannot write {path}: {why}; choose another output", thing="output")


# Whether a server can listen where it is told to, and what is said if it cannot.
#
# Knows addresses and the parameters that give them; nothing of who is served there.


def try_addresses(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Listen on all of them for a moment: before a run directory is made, or a model loaded.

    addresses: (host, port) by the parameter that gives it. Raises RunError.
    """
    with contextlib.ExitStack() as taken:
        for thing, address in addresses.items():
            try:
                for one in listening_sockets(*address):
                    taken.enter_context(one)
            except OSError as error:
                host, port = address
                raise RunError(
                    f"cannot listen on {host}:{port}: {_reason(error)}; give an address of this"
                    f" machine with a free port as {thing}",
                    thing=thing,
                ) from error


def _reason(error: OSError) -> str:
    """The system's own words; `socket` adds the address to them, which is named already."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return str(error.strerror or error)
    return os.strerror(error.errno)


# Which settings a run that goes on may have otherwise than it began. Knows keys alone.
#
# Data and model may lie elsewhere: what is in them is compared.


MAY_CHANGE = (
    "training.rounds",
    "evaluation.patience",
    "evaluation.min_delta",
    "threads",
    "engine.name",
    "engine.workers",
    "engine.address",
    "engine.wait_s",
    "engine.memory_mib",
    "devices.device",
    "server.device",
    "net.*",
    "model.name",
    "data.name",
    "adapter.start_from",
    "channel.uplink",
    "channel.downlink",
    "devices.profile",
    "server.profile",
)


def may_change(key: str) -> bool:
    """Whether the setting at a dotted key may be another when a run goes on."""
    return key in MAY_CHANGE or (key.startswith("net.") and "net.*" in MAY_CHANGE)


def check_changes(given: Iterable[str]) -> None:
    """Raises ConfigError for keys that a run that goes on may not have otherwise."""
    refused = [key for key in given if not may_change(key)]
    if refused:
        raise ConfigError(
            f"a run goes on with its own settings: leave out {', '.join(refused)}; allowed are"
            f" {', '.join(MAY_CHANGE)}"
        )


def changed_config(run: Path, changes: Mapping[str, Any]) -> Config:
    """The configuration of the run in that directory, going on with these settings, by dotted key.

    Raises ConfigError for settings that may not change; RunError for what is no run.
    """
    check_overrides(changes)
    check_changes(changes)
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run} is not a run directory: it has no config.yaml")
    return as_run(read_written(run / "config.yaml", changes))


# Settings that mean the same later, whatever folder they are read in and whatever is measured.


def as_run(config: Config) -> Config:
    """The configuration as a run has it: with the full path of a model, adapter, data set, trace
    or machine's profile that is a local one, and the scheme that `auto` is for it.

    Names that nothing lies under stay: they are known ones, of the hub, or mistakes that are named
    later. Raises ConfigError for a profile of accuracies that cannot be read, where `auto` asks it.
    """
    config = settled(config)
    model, data, channel = config.model, config.data, config.channel
    adapter, start = config.adapter, config.adapter.start_from
    if start is not None and Path(start).expanduser().exists():
        adapter = adapter.model_copy(update={"start_from": _full(start)})
    if holds_model(Path(model.name).expanduser()):
        model = model.model_copy(update={"name": _full(model.name)})
    if Path(data.name).expanduser().exists():
        data = data.model_copy(update={"name": _full(data.name)})
    if isinstance(channel, TracesSection):
        ways = {key: tuple(map(_full, getattr(channel, key))) for key in ("uplink", "downlink")}
        channel = channel.model_copy(update=ways)
    devices, server = config.devices, config.server
    if devices.profile is not None:
        names = devices.profile
        paths = _full(names) if isinstance(names, str) else tuple(map(_full, names))
        devices = devices.model_copy(update={"profile": paths})
    if devices.availability_trace is not None:
        trace = _full(devices.availability_trace)
        devices = devices.model_copy(update={"availability_trace": trace})
    if server.profile is not None:
        server = server.model_copy(update={"profile": _full(server.profile)})
    return config.model_copy(
        update={
            "model": model,
            "data": data,
            "channel": channel,
            "adapter": adapter,
            "devices": devices,
            "server": server,
        }
    )


def _full(name: str) -> str:
    return str(Path(name).expanduser().absolute())


# The runs of a configuration. Knows run directories by the configuration they hold.


def newest_run(config: Config, output: Path) -> Path | None:
    """The directory under `output` of the run of this very configuration that was begun last,
    whether it has ended or not; None if there is none."""
    return next(runs_of(config, output.iterdir() if output.is_dir() else ()), None)


def runs_of(config: Config, directories: Iterable[Path]) -> Iterator[Path]:
    """Those of these directories that hold a run of this very configuration, begun last first."""
    config = as_run(config)
    written = [path for folder in directories if (path := folder / "config.yaml").is_file()]
    for path in sorted(written, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if _holds(path, config):
            yield path.parent


def _holds(path: Path, config: Config) -> bool:
    try:
        return read_written(path) == config
    except ConfigError:  # of another version, or cut short: nothing that we could go on with
        return False
