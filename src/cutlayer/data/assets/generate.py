"""Word problems out of an unpacked `reasoning_gym`, as JSON lines: a program of its own.

    python -I generate.py FOLDER KINDS COUNT OUTPUT

It knows the package's generators; it knows nothing of cutlayer, which starts it in a process apart
and checks what it wrote. The package's own `__init__` imports every generator and a dozen other
packages for them, so two packages of its tree are stood for by their folders alone.
"""

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

_FAMILY = "reasoning_gym.arithmetic.gsm_symbolic"


def problems(folder: Path, kinds: list[int], count: int) -> Iterator[dict[str, Any]]:
    """`count` problems of each kind: question, worked answer, result and kind, kind after kind in
    turn; problem n of all is drawn with seed n."""
    for name in ("reasoning_gym", "reasoning_gym.arithmetic", _FAMILY):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    importlib.import_module("reasoning_gym.coaching")  # first: it and `factory` import each other
    family = importlib.import_module(f"{_FAMILY}.gsm_symbolic")
    settings = family.GSMSymbolicDatasetConfig(seed=0, size=1)
    generators = family.GSMSymbolicDataset(settings).generators
    for number in range(count * len(kinds)):
        kind = kinds[number % len(kinds)]
        made = generators[kind](random.Random(number), 1.0)
        yield {
            "question": made["question"],
            "worked": made["metadata"]["answer_cot"],
            "answer": made["answer"],
            "kind": kind,
        }


if __name__ == "__main__":
    given_folder, given_kinds, given_count, output = sys.argv[1:]
    given = problems(Path(given_folder), list(map(int, given_kinds.split(","))), int(given_count))
    with Path(output).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(problem) + "\n" for problem in given)
