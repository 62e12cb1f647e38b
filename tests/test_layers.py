"""The mathematics needs neither torch nor files."""

import subprocess
import sys

MATHEMATICS = (
    "spec",
    "units",
    "config.read",
    "channel.fading",
    "channel.traces",
    "codec.staged",
    "rounds.memory",
    "rounds.schemes",
    "planner.allocation",
    "rounds.work",
    "rounds.simulate",
    "rounds.result",
    "data.partition",
)


def test_mathematics_imports_without_torch() -> None:
    """One after another in one process: what a module brings along is told beside its name."""
    code = (
        "import importlib, sys\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'datasets', 'PIL', 'safetensors'}\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(f'cutlayer.{name}')\n"
        "    print(name, *sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, *MATHEMATICS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(MATHEMATICS)
