"""The functions of `import cutlayer`; the commands of the same names are these, with options.

What can be told of a mistake is told before torch is imported, which takes seconds: so modules that
need it are imported in here, when all is well. Nothing is printed: progress goes to `logging`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from cutlayer.config.schema import Config, DataSection
from cutlayer.data.check import OnBad
from cutlayer.errors import ConfigError, IdentityError, ModelError, needing, quoted
from cutlayer.files import path_of
from cutlayer.jobs.check import (
    changed_config,
    check,
    check_folder,
    check_given,
    check_kind,
    newest_run,
)
from cutlayer.jobs.compare import Compared, Source, named_runs
from cutlayer.logs import loading
from cutlayer.net.wire.link import address_of
from cutlayer.report.run_reader import Run
from cutlayer.spec import TextFormat
from cutlayer.training.records import Observer

RUNS = Path("runs")
LISTEN = "127.0.0.1:7700"
OPERATORS = "127.0.0.1:7701"
PATIENCE_S = 600.0

Model = TypeVar("Model")


def train(config: Config, *, output: Path | str = RUNS, observer: Observer | None = None) -> Run:
    """Fine-tune over simulated devices and a simulated link, in a new directory under `output`.

    Model and data are fetched if they are not in the cache. `observer` is told of each step and
    round; `logging.getLogger("cutlayer")` has the same as lines. A run that is killed goes on by
    `resume`, to the same bytes.

    Raises ConfigError for settings that exclude each other, that what is chosen does not read, or
    with which devices have too little memory; ModelError, DataError and AssetError for a model or
    data that cannot be used or found; RunError for a round that diverges, StorageError for a full
    disk. Whatever can be known before is, and leaves no directory behind.
    """
    config = check_given("train", config)
    output = path_of("output", output)
    _check_observer(observer)
    check_folder(output)
    check(config)
    with loading("`cutlayer train`", "train"):
        from cutlayer.jobs.train import start
    return Run(start(config, output, observer).path)


def resume(
    run: Run | Path | str,
    *,
    changes: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> Run:
    """Go on with a run of `train` from its last finished round, to the same bytes as if it had
    never stopped; of one that has ended, nothing is done again.

    `changes`: settings by dotted key, of those that may change: `{"training.rounds": 20}` trains
    longer. `observer`: as of `train`.

    Raises RunError for what is no run, a run of `serve`, or data, weights, settings or code that
    are not those that it began with, naming them; ConfigError for changes that may not be; else as
    `train`.
    """
    path, changes = _path_of(run), {} if changes is None else changes
    _check_observer(observer)
    changed_config(path, changes)
    with loading("`cutlayer train`", "train"):
        from cutlayer.jobs.train import resume as go_on
    return Run(go_on(path, observer, changes).path)


def compare(
    runs: Mapping[str, Source] | Sequence[Source],
    *,
    target: float | None = None,
    output: Path | str = "comparison",
    observer: Observer | None = None,
) -> Compared:
    """Several runs side by side, with a report in `output`; a configuration is trained, in
    `output`/runs, unless a finished run of it is there.

    `runs`: configurations or runs, each also as a path, of a YAML file or a run directory; under
    labels of yours, or called by their paths, or by the settings in which they differ. `target`:
    the accuracy (0 to 1) or perplexity to reach; None: the worst of the runs' best. A run that its
    devices cannot hold is part of the comparison, as one that does not fit.

    Raises ConfigError for fewer than two runs, the same twice, different tasks, or a target that
    cannot be; RunError for a run that cannot be read or has not ended; else as `train`, naming the
    run, all of it before the first is trained.
    """
    wanted, output = named_runs(runs), path_of("output", output)
    if isinstance(target, bool) or not isinstance(target, int | float | None):
        raise ConfigError(f"target should be a number, not {quoted(target)}")
    _check_observer(observer)
    check_folder(output)
    for one in wanted:
        one.check()
    with loading("`cutlayer compare`", "train"):
        from cutlayer.jobs.compare import compare_runs
    return compare_runs(wanted, output, target, observer)


def serve(
    config: Config | None = None,
    *,
    resume: Run | Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
    go_on: bool = False,
    output: Path | str = RUNS,
    keys: Path | str = "keys",
    listen: str = LISTEN,
    operators: str | None = OPERATORS,
) -> Run:
    """Be the server of a run whose devices `join` over the network, until it ends, or SIGTERM or
    SIGINT comes: then the run that is returned is not `finished`, and goes on another time.

    Begins a run of `config` in a new directory under `output`, or goes on with the run `resume`,
    with `changes` of settings by dotted key (`training.rounds`, `net.*`). `go_on`: with the newest
    run of `config` under `output`, and only if there is none begin one. `keys`: the folder that
    `cutlayer keys init` made. `listen`: HOST:PORT for devices; `operators`: for the live page,
    /health, /status and /metrics in plain HTTP, None: nowhere.

    Raises ConfigError unless one of `config` and `resume` is given, and for settings that cannot
    be played over a network; IdentityError for keys that cannot be used; RunError for an address
    that is not to be had or another server of this run; else as `train` and `resume`.
    """
    addresses = address_of(listen), None if operators is None else address_of(operators)
    check_kind(bool, "True or False", go_on=go_on)
    path: Path | None = None
    if resume is not None:
        if config is not None or go_on:
            raise ConfigError("serve: resume has its own configuration: leave out config and go_on")
        path = _path_of(resume)
        changed_config(path, {} if changes is None else changes)
    elif config is None or changes:
        raise ConfigError("serve: give a config to begin with, or resume, with its changes")
    else:
        config = check_given("serve", config)
        check_folder(path_of("output", output))
        check(config, dealt=False)
        path = newest_run(config, Path(output)) if go_on else None
    with loading("`cutlayer serve`", "train,net"):
        from cutlayer.jobs.serve import ListenAddresses, start
        from cutlayer.jobs.serve import resume as again
    listen_on, folder = ListenAddresses(*addresses), path_of("keys", keys)
    if path is not None:
        return Run(again(path, folder, listen_on, changes).path)
    assert config is not None
    return Run(start(config, Path(output), folder, listen_on).path)


def join(
    address: str,
    data: Path | str,
    *,
    identity: Path | str = "identity",
    token: str | None = None,
    text_field: str = "text",
    label_field: str = "label",
    format: str = "auto",
    skip_bad: bool = False,
    patience_s: float = PATIENCE_S,
    threads: int | None = None,
    device: str = "auto",
) -> None:
    """Take part in the run of the server at `address` (HOST:PORT) with this device's own samples,
    until the run ends.

    `data`: the samples, in any form that `data.name` takes, with `text_field` and `label_field` the
    columns of tables, and `format` how their rows are examples for a language model, as
    `data.format`. `identity`: the folder of this device's key and certificate, and of its state
    while a run goes on; where there is none yet, `token` is the invitation that makes one.
    `skip_bad`: leave out samples that cannot be used, which are an error else. `patience_s`: how
    long the server may be away [s]. `threads`: torch's; None: its choice. `device`: what computes
    here: cpu, cuda, cuda:N, mps, or the first of cuda, mps and cpu that is there (auto).

    Raises ConfigError for a device that is not there; IdentityError for keys or a token that cannot
    be used; DataError for samples that do not fit the run; RunError for a server that is away for
    longer, that does not want this device, or whose run is another than that of the state.
    """
    host_and_port = address_of(address)
    if type(patience_s) not in (int, float) or not patience_s > 0:
        raise ConfigError(f"patience_s should be a number above 0, not {quoted(patience_s)}")
    if not isinstance(device, str):
        raise ConfigError(f"device should be auto, cpu, cuda or mps, not {quoted(device)}")
    check_kind(str, "a column's name", text_field=text_field, label_field=label_field)
    check_kind(bool, "True or False", skip_bad=skip_bad)
    text_format: TextFormat | Literal["auto"] = DataSection.model_validate(
        {"format": format}
    ).format
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ConfigError(f"threads should be a whole number from 1 on, not {quoted(threads)}")
    if not isinstance(token, str | None):
        raise IdentityError("token should be the text that `cutlayer keys invite NAME` prints")
    own_data, folder = path_of("data", data), path_of("identity", identity)
    with loading("`cutlayer join`", "train,net"):
        from cutlayer.jobs.dataset import OwnData, check_path
        from cutlayer.jobs.join import identify, start
        from cutlayer.model.placement import Accelerators, device_named
    place = device_named(device, "device", Accelerators.seen())
    check_path(own_data)
    on_bad: OnBad = "skip" if skip_bad else "stop"
    own = OwnData(own_data, text_field, label_field, on_bad, text_format)
    keys = identify(host_and_port, folder, token, patience_s, own)
    state = folder / "run.safetensors"
    start(
        host_and_port, keys, own, state=state, patience_s=patience_s, threads=threads, device=place
    )


def load_adapter(model: Model, adapter: Run | Path | str) -> Model:
    """Add a trained adapter to the weights of a Hugging Face model, in place, and give it back.

    `model`: the whole model that it was trained over, with its head, from
    `AutoModelForImageClassification` and the like, with as many classes; `adapter`: a run that has
    ended, its directory, or a folder in PEFT's format. Does without PEFT, whose
    `PeftModel.from_pretrained` reads the same folder and keeps the adapter apart. Loaded twice, it
    is added twice.

    Raises ModelError for a folder that is broken or not of plain LoRA, and for a model that lacks
    one of its layers or has another shape of it, and is then as it was; RunError for a run that has
    not ended.
    """
    folder = adapter.adapter if isinstance(adapter, Run) else path_of("adapter", adapter)
    if (folder / "config.yaml").is_file():  # a run's own directory
        folder = Run(folder).adapter
    with needing("load_adapter", "train"):
        from torch import nn

        from cutlayer.model.peft_format import load_adapter as add
    if not isinstance(model, nn.Module):
        raise ModelError(f"load_adapter takes a Hugging Face model, not {quoted(model)}")
    add(model, folder)
    return model


def _path_of(run: Run | Path | str) -> Path:
    return run.path if isinstance(run, Run) else path_of("a run", run)


def _check_observer(observer: object) -> None:
    if not isinstance(observer, Observer | None):
        raise ConfigError(f"observer should be a cutlayer.Observer, not {quoted(observer)}")
