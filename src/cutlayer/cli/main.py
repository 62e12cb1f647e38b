"""`cutlayer`: finds the command, runs it, and turns what a user can correct into one line; and
what makes a shell complete commands, options and names.
"""

import argparse
import atexit
import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from importlib import import_module
from typing import TextIO

from cutlayer.errors import ConfigError, CutlayerError, cut, is_out_of_memory, nearest
from cutlayer.files import may_pass
from cutlayer.logs import lines_to
from cutlayer.version import __version__

# a run that has the machine to itself is as fast with 1,000 turns as with the usual 300,000, and a
# seventh slower with none. GNU's reads the first two, LLVM's and Intel's the first and the third;
# none reads KMP_LIBRARY but Intel's, and it decides the same
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
_CHOICES = (*_PASSIVE, "KMP_LIBRARY")

COMMANDS = {
    "train": "fine-tune a split model over simulated devices and a simulated link",
    "plan": "the best cut layer, codec and bandwidth allocation; memory, delay, sensitivity",
    "compare": "compare several runs: schemes, settings, finished runs",
    "sweep": "a grid of settings over seeds: means, intervals, tests, fronts, one table",
    "generate": "what a trained model writes after a prompt, or after many of a file",
    "chat": "talk with a trained model on the terminal",
    "evaluate": "perplexity, accuracy and exact answers of a trained model, its base beside it",
    "export": "a run's adapter in PEFT's format; runs as CSV, Parquet, LaTeX or PDF",
    "merge": "a run's adapter in the weights of its model: a Hugging Face folder",
    "push": "upload a run's adapter, or what `export` or `merge` wrote, to the Hugging Face hub",
    "profile": "accuracy at each codec setting, measured by training runs",
    "bench-device": "what this machine reaches when it trains, measured, for plans of it",
    "trace": "one round of a run as a Chrome trace, for Perfetto",
    "cache": "the activations that a run keeps, by device; forget a device's",
    "keys": "a run's certificates: invite devices, revoke them",
    "serve": "run the server, whose devices join over the network",
    "join": "join a server's run as a device, with its own samples",
    "status": "the progress of a server's run",
    "lab": "a run between processes over shaped links: measured against predicted delay",
    "assets": "list, get or export the models and data sets that come in packages",
    "examples": "list or copy the configurations that come with the package",
    "config": "validate a configuration file; print the JSON schema for editors",
    "completion": "shell completion of commands, options and names, for bash or zsh",
    "codec": "codecs on a model's tensors: bits, throughput, fidelity; packets and round trips",
}
# where commands are that have no file of their own
_HOMES = {
    **dict.fromkeys(("train", "compare", "trace", "cache"), "run"),
    **dict.fromkeys(("generate", "chat", "evaluate", "export", "merge", "push"), "use"),
    "profile": "plan",
    "bench-device": "plan",
    **dict.fromkeys(("serve", "join", "lab"), "network"),
    **dict.fromkeys(("keys", "status"), "operations"),
    **dict.fromkeys(("config", "examples"), "settings"),
    "completion": "main",
}
_MISTAKE = 2
# sysexits.h: a service may try again
_MAY_PASS = 75
_INTERRUPTED = 130
# as a shell says of what SIGPIPE ended
_PIPE_CLOSED = 141
_LONGEST_WORD = 200
_NO_MEMORY = (
    "there is not enough memory: lower training.batch_size, data.max_tokens or server.batch_tokens,"
    " or set devices.memory_mib and server.memory_mib, which are checked before a run"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0; 2 for a user's mistake; 75 for what may pass."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _run(words or ["--help"]))


def guarded(run: Callable[[], int], tell: Callable[[str], object] | None = None) -> int:
    """The exit code of `run`; what a user can correct becomes one line, and 2, or 75 if it may pass
    by itself. `tell` is given that line (None: it goes to standard error)."""
    tell = tell or (lambda text: on_standard_error(f"cutlayer: {text}"))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return run()
            finally:
                sys.stdout.flush()  # a reader that is gone is met here, not as the process ends
    except (CutlayerError, argparse.ArgumentError) as error:
        tell(f"{_one_line(error)}{_option(error)}")
        return _MAY_PASS if may_pass(error) else _MISTAKE
    except BrokenPipeError:
        _forget_standard_output()
        return _PIPE_CLOSED
    except OSError as error:
        tell(what_the_system_says(error))
        return _MAY_PASS if may_pass(error) else _MISTAKE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        told = f"{_NO_MEMORY}: {_one_line(error)}".removesuffix(": ")
        tell(told)
        return _MISTAKE
    except KeyboardInterrupt as error:
        tell(str(error) or "interrupted")
        return _INTERRUPTED


def _forget_standard_output() -> None:
    """Its reader has what it wanted (`cutlayer train --help | head -3`): the rest is for nobody."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """As an error is told: what a user can correct, and no line of anybody's source."""
    print(f"cutlayer: warning: {' '.join(str(message).split())}", file=file or sys.stderr)


def _one_line(error: Exception) -> str:
    """The message, and of a word that is longer than any name its beginning."""
    return " ".join(cut(word, _LONGEST_WORD) for word in str(error).split())


def _option(error: BaseException | None) -> str:
    """The option of what an error, or what led to it, says that helps."""
    while error is not None:
        if isinstance(error, CutlayerError) and error.thing is not None:
            return f" (--{error.thing})"
        error = error.__cause__
    return ""


def what_the_system_says(error: OSError) -> str:
    """The file, if it is one, and the reason, which says whether it was the disk or the network."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _run(words: list[str]) -> int:
    _refuse_other_bytes(words)
    name = _parser().parse_args(words[:1]).command
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name}; {nearest(name, list(COMMANDS))}")
    prepare()
    add_arguments, run = command(name)
    known = parsed(f"cutlayer {name}", COMMANDS[name], add_arguments, words[1:])
    with lines_to(on_standard_error, quiet=getattr(known, "quiet", False)):
        return run(known)


def command(
    name: str,
) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]:
    """What adds the arguments of one of `COMMANDS`, and what carries it out.

    Only its file is imported: `--help` and `--version` stay quick.
    """
    home = import_module(f"cutlayer.cli.{_HOMES.get(name, name)}")
    word = name.replace("-", "_")
    return getattr(home, f"{word}_arguments"), getattr(home, f"run_{word}")


def on_standard_error(line: str) -> None:
    """A line that is logged, at once."""
    print(line, file=sys.stderr, flush=True)


def prepare() -> None:
    """Set up the process, before anything imports torch."""
    wait_passively(os.environ)
    # at the end all is the system's to free: to look for garbage in torch's modules takes a second
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Threads that wait sleep: a process shares its processors with what else runs on the machine.

    OpenMP's threads spin while they wait for each other. Where other processes want the processors,
    a thread spins through the time slice that the one it waits for needs. Torch's wheels bring
    GNU's OpenMP on Linux and LLVM's on macOS; some builds link Intel's. All read the environment
    once, as torch loads them; child processes have it too. Any choice of the user's own stays as it
    is. `benchmarks/disturbed.py neighbours` has what it costs and gains.
    """
    if not any(name in environment for name in _CHOICES):
        environment.update(_PASSIVE)


def parsed(
    program: str,
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    words: Sequence[str],
) -> argparse.Namespace:
    """The arguments of a command. Raises ConfigError and ArgumentError for what it does not know.

    Exits after `--help`.
    """
    _refuse_other_bytes(words)
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        allow_abbrev=False,
        exit_on_error=False,
        conflict_handler="resolve",  # a command may have another --help
    )
    add_arguments(parser)
    known, unknown = parser.parse_known_args(_joined(map(_hyphened, words)))
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        word = cut(unknown[0].partition("=")[0])
        name = program.rpartition(" ")[2]
        raise ConfigError(f"{name}: unknown argument {word}; {_hint(word, options)}")
    return known


def _hyphened(word: str) -> str:
    """An option as it is listed, if somebody wrote it with _ for -, as configuration files do."""
    option, equals, value = word.partition("=")
    return f"{option.replace('_', '-')}{equals}{value}" if option.startswith("--") else word


def _joined(words: Iterable[str]) -> list[str]:
    """Options with the negative numbers behind them: argparse takes -1e1 or -inf for an option."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        if _is_negative(word) and before.startswith("--") and "=" not in before:
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _is_negative(word: str) -> bool:
    """Whether it is a number with a minus, or several with commas between."""
    try:
        float(word.partition(",")[0])
    except ValueError:
        return False
    return word.startswith("-")


def _refuse_other_bytes(words: Sequence[str]) -> None:
    """What is not UTF-8 comes as lone surrogates, which no file of ours can hold."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"the argument {cut(ascii(word))} is not UTF-8: rename what it names"
            ) from error


def _hint(word: str, options: list[str]) -> str:
    hint = nearest(word, options) if word.startswith("-") else "known:"
    return "see `--help`" if hint.startswith("known:") else hint


def _parser() -> argparse.ArgumentParser:
    rows = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="cutlayer",
        usage="%(prog)s COMMAND [arguments]",
        description="Split fine-tuning of transformers on devices too small to hold the model.",
        epilog=f"commands:\n{rows}\n\n`cutlayer COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cutlayer {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="see below")
    return parser


# `cutlayer completion`.


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer completion`."""
    parser.add_argument(
        "shell",
        choices=("bash", "zsh"),
        help='bash: eval "$(cutlayer completion bash)" in ~/.bashrc; zsh: put what is printed into'
        " a file _cutlayer in a folder of $fpath",
    )


def run_completion(arguments: argparse.Namespace) -> int:
    """Print it."""
    import shtab  # not for other commands

    print(shtab.complete(_whole(), shell=arguments.shell))
    return 0


def _whole() -> argparse.ArgumentParser:
    """All commands in one parser, which only completes; of one whose extra is not installed, its
    name."""
    from cutlayer.cli.settings import add_names

    parser = argparse.ArgumentParser(prog="cutlayer")
    commands = parser.add_subparsers()
    for name, what in COMMANDS.items():
        own = commands.add_parser(name, help=what, conflict_handler="resolve")
        try:
            add_arguments, _ = command(name)
            add_arguments(own)
        except ConfigError:
            continue
        add_names(own)
    return parser
