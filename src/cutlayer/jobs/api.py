"""The functions of `import cutlayer`; the commands of the same names are these, with options.

What can be told of a mistake is told before torch is imported, which takes seconds: so modules that
need it are imported in here, when all is well. Nothing is printed: progress goes to `logging`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

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
from cutlayer.jobs.compare import Compared, Source, export_results, named_runs
from cutlayer.jobs.facts import (
    ADAPTERS,
    MOST_NEW,
    Prompt,
    TrainedFolder,
    Which,
    check_generates,
    is_prompt,
    open_trained,
)
from cutlayer.jobs.hand_over import MERGED_NUMBERS, export_trained, merge_trained, push_trained
from cutlayer.logs import loading
from cutlayer.net.wire.link import address_of
from cutlayer.report.run_reader import Run
from cutlayer.spec import Base, TextFormat
from cutlayer.training.records import Observer
from cutlayer.units import GIB

if TYPE_CHECKING:
    from cutlayer.jobs.evaluate import Evaluated
    from cutlayer.jobs.use import Talk

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
    model: Path | str | None = None,
    most_disk_gib: float = 16.0,
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
    `model`: the model that is trained, or another version of it, by path or name where it lies on
    this machine: of its tensors, those that are equal are not fetched. `most_disk_gib`: what parts
    of this and of earlier runs may take on disk.

    Raises ConfigError for a device that is not there; AssetError for a model that is not here;
    IdentityError for keys or a token that cannot
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
    if type(most_disk_gib) not in (int, float) or not most_disk_gib > 0:
        raise ConfigError(f"most_disk_gib should be a number above 0, not {quoted(most_disk_gib)}")
    own_data, folder = path_of("data", data), path_of("identity", identity)
    named = None if model is None else str(path_of("model", model))
    with loading("`cutlayer join`", "train,net"):
        from cutlayer.data.find import find_model
        from cutlayer.jobs.dataset import OwnData, check_path
        from cutlayer.jobs.join import identify, start
        from cutlayer.model.placement import Accelerators, device_named
    here = None if named is None else find_model(named, fetched=False).path
    place = device_named(device, "device", Accelerators.seen())
    check_path(own_data)
    on_bad: OnBad = "skip" if skip_bad else "stop"
    own = OwnData(own_data, text_field, label_field, on_bad, text_format)
    keys = identify(host_and_port, folder, token, patience_s, own)
    state = folder / "run.safetensors"
    start(
        host_and_port,
        keys,
        own,
        state=state,
        patience_s=patience_s,
        threads=threads,
        device=place,
        model=here,
        most_disk_bytes=int(most_disk_gib * GIB),
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


# What was trained, used and handed on.


def generate(
    run: Run | Path | str,
    prompts: str | Sequence[Prompt],
    *,
    which: Which = "last",
    system: str | None = None,
    raw: bool = False,
    max_new_tokens: int = MOST_NEW,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
    numbers: str | None = None,
) -> list[str]:
    """What a trained language model answers to each of `prompts`, in their order: a text, texts, or
    conversations, each a list of turns with `role` and `content`.

    `run`: a run, finished or not, or what `export` or `merge` wrote; `which`: of its adapters, of
    the `"last"` round or the `"best"`. Texts go through the chat template where there is one, as
    the user's turn after that of `system`; `raw`: they are continued as they are. The likeliest
    token is taken at `temperature` 0, else one is drawn from `seed` among the likeliest that have
    the probability `top_p` together. `model`: where the weights that it was trained over are now;
    `device`: what computes: auto, cpu, cuda, cuda:N or mps; `numbers`: hold the base in float32,
    bfloat16, int8 or nf4, None: as in the run.

    Raises ConfigError for an option that cannot be, and a model that writes no text; RunError for
    what is no run, or without a finished round; AssetError for weights that are not to be had,
    ModelError for others than it was trained over, and prompts that are too long or have no token.
    """
    check_kind(bool, "True or False", raw=raw)
    asked = [prompts] if isinstance(prompts, str) else _prompts_of(prompts)
    if raw and (system is not None or not all(isinstance(one, str) for one in asked)):
        raise ConfigError("generate: raw has no turns, so no system: give texts alone")
    folder = _trained(run, which, "generate")
    with loading("generate", "train"):
        from cutlayer.jobs.use import Sampling, generated, load_trained, plain_ids, prompt_ids
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    loaded = load_trained(folder, model=model, device=device, base=_base_of(numbers))
    ids = [
        plain_ids(loaded, one) if raw and isinstance(one, str) else prompt_ids(loaded, one, system)
        for one in asked
    ]
    return generated(loaded, ids, sampling)


def chat(
    run: Run | Path | str,
    *,
    which: Which = "last",
    system: str | None = None,
    max_new_tokens: int = MOST_NEW,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
    numbers: str | None = None,
) -> "Talk":
    """A conversation with a trained language model: `chat(run).answer("...")`, which remembers what
    was said.

    Options as of `generate`. Raises what `generate` does, and ModelError for a tokenizer without
    chat template.
    """
    folder = _trained(run, which, "chat")
    with loading("chat", "train"):
        from cutlayer.jobs.use import Sampling, Talk, load_trained
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    loaded = load_trained(folder, model=model, device=device, base=_base_of(numbers))
    return Talk(loaded, sampling, system)


def evaluate(
    run: Run | Path | str,
    data: Path | str | None = None,
    *,
    which: Which = "last",
    samples: int | None = None,
    answers: bool = True,
    pattern: str | None = None,
    max_new_tokens: int | None = None,
    base: bool = False,
    model: str | None = None,
    device: str = "auto",
    numbers: str | None = None,
) -> "Evaluated":
    """How good a trained model is on `data` (a path, a packaged set or a hub id, read as the run's
    are; None: the test samples of the run).

    `samples`: at most so many, spread over all. `answers`: let it write the answers of
    conversations, prompts and completions, and count those that are the data's; with `pattern`, a
    regular expression, those of which its last match is the same. `max_new_tokens`: of an answer,
    None: a little more than the longest in the data. `base`: the model before training, too. The
    others as of `generate`.

    Raises DataError and AssetError for data that cannot be used; else what `generate` does.
    """
    check_kind(bool, "True or False", answers=answers, base=base)
    if samples is not None and (type(samples) is not int or samples < 1):
        raise ConfigError(f"samples should be a whole number from 1 on, not {quoted(samples)}")
    named = None if data is None else str(path_of("data", data))
    folder = _trained(run, which)
    with loading("evaluate", "train"):
        from cutlayer.jobs.evaluate import Answers, try_trained
        from cutlayer.jobs.use import load_trained
    how = Answers(pattern, max_new_tokens) if answers else None
    loaded = load_trained(folder, model=model, device=device, base=_base_of(numbers))
    return try_trained(loaded, named, samples=samples, answers=how, base=base)


def export(
    runs: Run | Path | str | Sequence[Run | Path | str],
    to: Path | str,
    *,
    format: str = "adapter",
    which: Which = "last",
    target: float | None = None,
    baseline: str | None = None,
) -> Path:
    """Copy the adapter of a run, in PEFT's format, with tokenizer, model card and settings, into
    the new folder `to`; or write what `runs` came to into the folder `to`. Gives the folder.

    `format`: `adapter`; or `csv` or `parquet`: `runs` and `rounds`, a row a run and a row a round;
    `latex`: `results.tex` and `differences.tex`, means over seeds with intervals, for booktabs;
    `pdf`: `curves.pdf` and `fronts.pdf`, with bands over seeds. `runs`: run directories, and
    folders of such, as of a sweep. `which`: of an adapter. `target` and `baseline`: of the others,
    as of `sweep`.

    Raises ConfigError for a folder that holds something, of an adapter; for another format, runs of
    different tasks, two of the same settings and seed; RunError for what is no run, or without a
    finished round, of others than an adapter not finished; StorageError for a full disk.
    """
    to = path_of("to", to)
    given = [runs] if isinstance(runs, Run | Path | str) else runs
    if not isinstance(given, Sequence):
        raise ConfigError(f"export takes a run, or a list of runs, not {quoted(runs)}")
    if format != "adapter":
        if which != "last":
            raise ConfigError(f"which is of adapters: leave it out for {quoted(format)}")
        paths = [_path_of(one) for one in given]
        export_results(paths, to, format, target=target, baseline=baseline)
        return to
    if len(given) != 1:
        raise ConfigError(f"export: an adapter is of one run, not {len(given)}: give a format too")
    if target is not None or baseline is not None:
        raise ConfigError("target and baseline are of tables: give a format too")
    export_trained(_trained(given[0], which), to)
    return to


def merge(
    run: Run | Path | str,
    to: Path | str,
    *,
    which: Which = "last",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    model: str | None = None,
) -> Path:
    """Write the whole model, the adapter of a run in its weights, into the new folder `to`, which
    `from_pretrained` reads, and give that.

    `dtype`: the numbers of the result; only in float32 nothing of the adapter is rounded. `model`:
    as of `generate`.

    Raises ConfigError for a folder that holds something; AssetError for weights that are not to be
    had, ModelError for others than it was trained over; else what `export` does.
    """
    to = path_of("to", to)
    if dtype not in MERGED_NUMBERS:
        raise ConfigError(f"dtype should be {', '.join(MERGED_NUMBERS)}, not {quoted(dtype)}")
    merge_trained(_trained(run, which), to, model=model, dtype=dtype)
    return to


def push(
    run: Run | Path | str,
    name: str,
    *,
    which: Which = "last",
    private: bool = True,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the adapter of a run, or a model that `merge` wrote, as `name` (OWNER/NAME) to the
    Hugging Face hub, or to `$HF_ENDPOINT`, and give its address.

    `private`: of a repository that is made. `message`: of the commit. `token`: None: the one that
    `hf auth login` keeps, or `$HF_TOKEN`.

    Raises ConfigError for a name that cannot be; AssetError without network or token, and for what
    the hub refuses; RunError for what is no run, or without a finished round.
    """
    check_kind(bool, "True or False", private=private)
    check_kind(str, "OWNER/NAME", name=name)
    return push_trained(_trained(run, which), name, private=private, message=message, token=token)


def _trained(run: Run | Path | str, which: Which, doing: str | None = None) -> TrainedFolder:
    """What was trained; where something is to be done that writes text, one that does."""
    if which not in ADAPTERS:
        raise ConfigError(f"which should be {' or '.join(ADAPTERS)}, not {quoted(which)}")
    folder = open_trained(_path_of(run), which)
    if doing is not None:
        check_generates(folder, doing)
    return folder


def _prompts_of(prompts: object) -> list[Prompt]:
    """The prompts that a program gave. Raises ConfigError for what is none."""
    if not isinstance(prompts, Sequence):
        raise ConfigError(f"prompts should be texts or conversations, not {quoted(prompts)}")
    for prompt in prompts:
        if not is_prompt(prompt):
            raise ConfigError(
                "a prompt should be a text, or a list of turns with role and content, not"
                f" {quoted(prompt)}"
            )
    return list(prompts)


def _base_of(numbers: str | None) -> Base | None:
    if numbers is None:
        return None
    try:
        return Base(numbers)
    except ValueError as error:
        known = ", ".join(base.value for base in Base)
        raise ConfigError(f"numbers should be {known}, not {quoted(numbers)}") from error


def _path_of(run: Run | Path | str) -> Path:
    return run.path if isinstance(run, Run) else path_of("a run", run)


def _check_observer(observer: object) -> None:
    if not isinstance(observer, Observer | None):
        raise ConfigError(f"observer should be a cutlayer.Observer, not {quoted(observer)}")
