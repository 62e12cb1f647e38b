"""`cutlayer generate`, `chat` and `evaluate`: what a trained model writes, once or in turns, and
how good it is; `cutlayer export`, `merge` and `push`: what was trained, handed on.

Knows arguments, files of prompts and the terminal; models are `jobs.use`'s, which is imported once
all that can be told without torch is told, folders and the hub `jobs.hand_over`'s.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.cli.settings import add_baseline, add_target, whole_number
from cutlayer.errors import ConfigError, DataError, quoted, reason
from cutlayer.files import json_text
from cutlayer.jobs.facts import (
    MOST_NEW,
    Prompt,
    TrainedFolder,
    Which,
    check_generates,
    is_prompt,
    open_trained,
)
from cutlayer.jobs.hand_over import (
    MERGED_NUMBERS,
    check_new,
    export_trained,
    merge_trained,
    push_trained,
)
from cutlayer.logs import loading
from cutlayer.spec import Base

if TYPE_CHECKING:
    from transformers import TextStreamer

    from cutlayer.jobs.evaluate import Figures
    from cutlayer.jobs.use import Sampling, Talk, UsableModel

_RESET, _EXITS = "/reset", ("/exit", "/quit")
_PROMPT = "> "
_ADAPTER = "adapter"


def add_trained(parser: argparse.ArgumentParser) -> None:
    """The arguments that name something that was trained."""
    # not required here, so that one line of ours says what is missing
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="a run's directory, finished or not, or what `export` or `merge` wrote",
    )
    _add_which(parser)


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--round",
        choices=("last", "best"),
        default="last",
        help="whose adapter: the last finished round's, or the one's with the best score (last)",
    )


def opened(command: str, arguments: argparse.Namespace) -> TrainedFolder:
    """What they name. Raises ConfigError, RunError."""
    if arguments.run is None:
        raise ConfigError(f"{command}: which run? give its directory, such as runs/NAME-001")
    which: Which = arguments.round
    return open_trained(arguments.run, which)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """The options of how a model is held."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="where the weights that it was trained over are now: a path, a known name or a hub id"
        " (where they were)",
    )
    parser.add_argument(
        "--device", default="auto", help="what computes: auto, cpu, cuda, cuda:N or mps (auto)"
    )
    parser.add_argument(
        "--numbers",
        choices=[base.value for base in Base],
        help="hold the base in these (those of the run)",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens",
        type=whole_number,
        default=MOST_NEW,
        metavar="N",
        help=f"tokens of an answer at most ({MOST_NEW})",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0: the likeliest token each time; else draw, the more freely the larger (0)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw among the likeliest that have this probability together (1)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is drawn; the same seed draws the same (0)"
    )
    parser.add_argument("--system", metavar="TEXT", help="a turn of the system before all others")


# `cutlayer generate`.


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose text, after what, and how tokens are chosen."""
    add_trained(parser)
    parser.add_argument(
        "prompt", nargs="?", help="what is to be answered; without it, what comes on stdin"
    )
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="many prompts: one a line; or .jsonl with prompt (a text) or messages (turns) in each",
    )
    parser.add_argument(
        "--raw", action="store_true", help="go on with the text as it is, without chat template"
    )
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each: prompt and answer"
    )
    _add_sampling(parser)
    add_loading(parser)


def run_generate(arguments: argparse.Namespace) -> int:
    """Print what the model writes. Raises CutlayerError."""
    folder = opened("generate", arguments)
    check_generates(folder, "generate")
    if arguments.raw and arguments.system is not None:
        raise ConfigError("generate: --raw has no turns, so no --system: leave one of them out")
    prompts = _prompts(arguments)
    if arguments.raw and not all(isinstance(prompt, str) for prompt in prompts):
        raise ConfigError("generate: --raw has no turns: give texts (prompt), or leave it out")
    model, sampling = _loaded(folder, "`cutlayer generate`", arguments)
    from cutlayer.jobs.use import generated, plain_ids, prompt_ids

    ids = [
        plain_ids(model, prompt)
        if arguments.raw and isinstance(prompt, str)
        else prompt_ids(model, prompt, arguments.system)
        for prompt in prompts
    ]
    answers = generated(model, ids, sampling)
    for prompt, answer in zip(prompts, answers, strict=True):
        if arguments.json:
            print(json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False))
        elif len(prompts) == 1:
            print(answer)
        else:
            asked = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
            print(f"{_PROMPT}{asked}\n{answer}\n")
    return 0


def _prompts(arguments: argparse.Namespace) -> list[Prompt]:
    """What is to be answered. Raises ConfigError for nothing, or for two things; DataError for a
    file that cannot be read."""
    if arguments.file is not None:
        if arguments.prompt is not None:
            raise ConfigError("generate: a prompt and --file: give one of them")
        return list(_prompts_in(arguments.file))
    if arguments.prompt is not None:
        return [arguments.prompt]
    if sys.stdin.isatty():
        raise ConfigError("generate: what is to be answered? give a prompt, a --file, or stdin")
    text = sys.stdin.read().strip("\n")
    if not text:
        raise ConfigError("generate: stdin was empty: give a prompt")
    return [text]


def _prompts_in(path: Path) -> Iterator[Prompt]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} has no line: give a prompt a line")
    for number, line in lines:
        yield _read_prompt(path, number, line) if path.suffix == ".jsonl" else line


def _read_prompt(path: Path, number: int, line: str) -> Prompt:
    """The prompt in a line of JSON: a text, or turns."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path} line {number} is no JSON: {reason(error)}") from error
    prompt = row.get("prompt", row.get("messages")) if isinstance(row, dict) else row
    if not is_prompt(prompt):
        raise DataError(
            f"{path} line {number} has no prompt: give an object with prompt, a text, or messages,"
            f" a list of turns with role and content, not {quoted(row)}"
        )
    return prompt


def _loaded(
    folder: TrainedFolder, command: str, arguments: argparse.Namespace
) -> "tuple[UsableModel, Sampling]":
    with loading(command, "train"):
        from cutlayer.jobs.use import Sampling, load_trained
    sampling = Sampling(
        arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed
    )
    base = None if arguments.numbers is None else Base(arguments.numbers)
    model = load_trained(folder, model=arguments.model, device=arguments.device, base=base)
    return model, sampling


# `cutlayer chat`.


def chat_arguments(parser: argparse.ArgumentParser) -> None:
    """With whom, and how tokens are chosen."""
    add_trained(parser)
    _add_sampling(parser)
    add_loading(parser)


def run_chat(arguments: argparse.Namespace) -> int:
    """Talk until there is no more to read. Raises CutlayerError."""
    folder = opened("chat", arguments)
    check_generates(folder, "chat")
    model, sampling = _loaded(folder, "`cutlayer chat`", arguments)
    from transformers import TextStreamer

    from cutlayer.jobs.use import Talk

    talk = Talk(model, sampling, arguments.system)

    def shown() -> TextStreamer:
        return TextStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)

    if sys.stdin.isatty():
        facts = folder.facts
        print(
            f"{Path(facts.base.name).name}, round {facts.round} of {facts.rounds} on"
            f" {Path(facts.data).name}; {_RESET} forgets, {_EXITS[0]} or Ctrl-D ends",
            file=sys.stderr,
        )
    talk_on(talk, _lines(), shown)
    return 0


def talk_on(talk: "Talk", lines: Iterator[str], shown: "Callable[[], TextStreamer]") -> None:
    """Answer each line as it comes; `shown` makes what shows an answer, a new one each time: one
    that was interrupted is in the middle of it. Ctrl-C takes back what was asked last, and while
    nothing is asked it ends."""
    while True:
        try:
            line = next(lines).strip()
        except (StopIteration, KeyboardInterrupt):
            return
        if line in _EXITS:
            return
        if line == _RESET:
            talk.reset()
        elif line.startswith("/"):
            print(f"known: {', '.join((_RESET, *_EXITS))}", file=sys.stderr)
        elif line:
            try:
                talk.answer(line, shown())
            except KeyboardInterrupt:
                print(flush=True)
                print("(interrupted)", file=sys.stderr)


def _lines() -> Iterator[str]:
    """The lines of a pipe, or what somebody types."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited, and earlier ones fetched
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            print()
            return


# `cutlayer evaluate`.


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose figures, on what."""
    add_trained(parser)
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="a path, a packaged set or a hub id, read as the run's data are: its test split, or"
        " all where there is none (the test samples of the run)",
    )
    parser.add_argument(
        "--base", action="store_true", help="the model before training, too, beside it"
    )
    parser.add_argument(
        "--samples", type=whole_number, metavar="N", help="so many at most, spread over all (all)"
    )
    parser.add_argument(
        "--no-answers",
        action="store_true",
        help="of conversations, prompts and completions: let it write none",
    )
    parser.add_argument(
        "--answer",
        metavar="REGEX",
        help="compare answers by the last match of this in each, such as '-?[0-9]+' (all of the"
        " text, blanks apart)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=whole_number,
        metavar="N",
        help="tokens of an answer at most (a little more than the longest in the data)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_loading(parser)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Print the figures. Raises CutlayerError."""
    folder = opened("evaluate", arguments)
    with loading("`cutlayer evaluate`", "train"):
        from cutlayer.jobs.evaluate import Answers, try_trained
        from cutlayer.jobs.use import load_trained
    answers = None
    if not arguments.no_answers:
        answers = Answers(arguments.answer, arguments.max_new_tokens)
    base = None if arguments.numbers is None else Base(arguments.numbers)
    model = load_trained(folder, model=arguments.model, device=arguments.device, base=base)
    trial = try_trained(
        model, arguments.data, samples=arguments.samples, answers=answers, base=arguments.base
    )
    facts = folder.facts
    if arguments.json:
        about = {"task": facts.task, "round": facts.round}
        print(json_text(about | asdict(trial)))
        return 0
    counted = f", {trial.counted} tokens that count" if facts.task == "causal-lm" else ""
    answered = f", {trial.answers} answers" if trial.answers else ""
    print(f"{trial.data}: {trial.samples} samples{counted}{answered}")
    for name, figures in ((f"round {facts.round}", trial.trained), ("base", trial.base)):
        if figures is not None:
            print(f"{name}: {_in_words(figures)}")
    return 0


def _in_words(figures: "Figures") -> str:
    """`perplexity 21.3, next token right 41.2 %, exact match 12.5 %`."""
    language = figures.perplexity is not None
    told = [
        f"perplexity {figures.perplexity:.4g}" if language else f"loss {figures.loss:.4g}",
        f"{'next token right' if language else 'accuracy'} {figures.accuracy:.1%}",
    ]
    if figures.exact_match is not None:
        told.append(f"exact match {figures.exact_match:.1%}")
    return ", ".join(told)


# What was trained, handed on.


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which runs, what of them, and where to."""
    parser.usage = (
        "%(prog)s RUN [--round best] [--output DIR]\n"
        "       %(prog)s RUN ... --format csv|parquet|latex|pdf [--target SCORE]"
        " [--baseline SETTINGS] [--output DIR]"
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a run's directory; with another format, several, or a folder of runs such as a"
        " sweep's",
    )
    parser.add_argument(
        "--format",
        default=_ADAPTER,
        metavar="FORMAT",
        help="adapter: of the run, in PEFT's format; csv, parquet: a row a run, and a row a run and"
        " round; latex: booktabs tables of means over seeds; pdf: figures with bands (adapter)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="of an adapter, a new folder (NAME-adapter here); of others, the files' (results)",
    )
    _add_which(parser)
    add_target(parser)
    add_baseline(parser)


def run_export(arguments: argparse.Namespace) -> int:
    """Write it, and print where to. Raises CutlayerError."""
    runs: list[Path] = arguments.runs
    others = arguments.target is not None or arguments.baseline is not None
    if arguments.format != _ADAPTER:
        from cutlayer.jobs.compare import export_results

        if arguments.round != "last":
            raise ConfigError("--round is of adapters: leave it out for tables and figures")
        to = arguments.output or Path("results")
        for path in export_results(
            runs, to, arguments.format, target=arguments.target, baseline=arguments.baseline
        ):
            print(path)
        return 0
    if len(runs) > 1 or others:
        raise ConfigError(
            "export: an adapter is of one run, without target or baseline; for tables and figures"
            " of several give --format csv, parquet, latex or pdf; for a folder, --output"
        )
    if not runs:
        raise ConfigError("export: which run? give its directory, such as runs/NAME-001")
    folder = open_trained(runs[0], arguments.round)
    kind = "model" if folder.is_model else _ADAPTER
    to = arguments.output or Path(f"{runs[0].resolve().name}-{kind}")
    export_trained(folder, to)
    print(to)
    return 0


def merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, where to, and in which numbers."""
    add_trained(parser)
    parser.add_argument("to", nargs="?", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument(
        "--dtype",
        choices=MERGED_NUMBERS,
        default=MERGED_NUMBERS[0],
        help="the numbers of the result; only in float32 nothing of the adapter is rounded"
        " (float32)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="where the weights that it was trained over are now: a path, a known name or a hub id"
        " (where they were)",
    )


def run_merge(arguments: argparse.Namespace) -> int:
    """Write the whole model, and print where to. Raises CutlayerError."""
    folder = opened("merge", arguments)
    if arguments.to is None:
        raise ConfigError("merge: where to? give a new folder after the run")
    check_new(arguments.to)
    with loading("`cutlayer merge`", "train"):
        import torch  # noqa: F401 - takes seconds
    merge_trained(folder, arguments.to, model=arguments.model, dtype=arguments.dtype)
    print(arguments.to)
    return 0


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Of what, as what, and who may see it."""
    add_trained(parser)
    parser.add_argument("name", nargs="?", metavar="NAME", help="OWNER/NAME on the hub")
    parser.add_argument(
        "--public", action="store_true", help="let everybody see it, if it is not there yet"
    )
    parser.add_argument("--message", metavar="TEXT", help="of the commit")


def run_push(arguments: argparse.Namespace) -> int:
    """Upload it, and print its address. Raises CutlayerError."""
    folder = opened("push", arguments)
    if arguments.name is None:
        raise ConfigError("push: as what? give OWNER/NAME after the run")
    address = push_trained(
        folder, arguments.name, private=not arguments.public, message=arguments.message
    )
    print(address)
    return 0
