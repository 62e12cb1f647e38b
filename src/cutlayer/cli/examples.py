"""`cutlayer examples`: configurations that come with the package, and copies of them to edit."""

import argparse
import shutil
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from cutlayer.errors import ConfigError, nearest

_SUFFIX = ".yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer examples`."""
    parser.add_argument(
        "action",
        choices=("list", "copy"),
        nargs="?",
        default="list",
        help="list: what there is (default); copy: put one where it can be edited",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the one to copy")
    parser.add_argument(
        "to", nargs="?", type=Path, default=Path(), metavar="TO", help="a folder, or a new file (.)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry the command out. Raises ConfigError, OSError."""
    examples = all_examples()
    if arguments.action == "list":
        for name, example in examples.items():
            print(f"{name}\t{_first_line(example)}")
        return 0
    if arguments.name is None:
        raise ConfigError(f"examples copy: which one? {', '.join(examples)}")
    name = arguments.name.removesuffix(_SUFFIX)
    if name not in examples:
        raise ConfigError(f"no example {arguments.name[:80]!r}; {nearest(name, list(examples))}")
    print(_copy(examples[name], arguments.to))
    return 0


def all_examples() -> dict[str, Traversable]:
    """Each example by its name, in the order of the alphabet."""
    folder = files("cutlayer") / "examples"
    found = [file for file in folder.iterdir() if file.name.endswith(_SUFFIX)]
    return {file.name.removesuffix(_SUFFIX): file for file in sorted(found, key=lambda f: f.name)}


def _first_line(example: Traversable) -> str:
    """The first sentence of the comment at the top."""
    comment = []
    for line in example.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".")


def _copy(example: Traversable, to: Path) -> Path:
    target = to / example.name if to.is_dir() else to
    if target.exists():
        raise ConfigError(f"{target} is there already: name another file")
    with as_file(example) as source:
        shutil.copyfile(source, target)
    return target
