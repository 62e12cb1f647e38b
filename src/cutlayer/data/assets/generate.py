"""Word problems out of an unpacked `reasoning_gym`, as JSON lines: a program of its own.

    python -I generate.py FOLDER COUNT OUTPUT

It knows the package's generator of leg counting; it knows nothing of cutlayer, which starts it in a
process apart and checks what it wrote. The package's own `__init__` imports every generator and a
dozen other packages for them, so two packages of its tree are stood for by their folders alone.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

_LEAST_EACH, _MOST_EACH, _MOST_ANIMALS = 2, 9, 2


def problems(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """`count` problems: question, how many of each animal, the legs that one has, and the answer;
    problem n is drawn with seed n."""
    for name in ("reasoning_gym", "reasoning_gym.arithmetic"):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    importlib.import_module("reasoning_gym.coaching")  # first: it and `factory` import each other
    family = importlib.import_module("reasoning_gym.arithmetic.leg_counting")
    settings = family.LegCountingConfig(
        min_animals=1,
        max_animals=_MOST_ANIMALS,
        min_instances=_LEAST_EACH,
        max_instances=_MOST_EACH,
        seed=0,
        size=count,
    )
    for made in family.LegCountingDataset(settings):
        animals = made["metadata"]["animals"]
        yield {
            "question": made["question"],
            "animals": [[name, number, family.ANIMALS[name]] for name, number in animals.items()],
            "answer": made["answer"],
        }


if __name__ == "__main__":
    given_folder, given_count, output = sys.argv[1:]
    with Path(output).open("w", encoding="utf-8") as file:
        for problem in problems(Path(given_folder), int(given_count)):
            file.write(json.dumps(problem) + "\n")
