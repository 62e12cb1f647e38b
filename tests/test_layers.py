"""The mathematics needs neither torch nor files."""

import subprocess
import sys

import pytest

MATHEMATICS = (
    "spec",
    "units",
    "channel.snr_channel",
    "channel.trace_files",
    "codec.presets",
    "cost.accounting",
    "cost.convergence",
    "cost.parameters",
    "schemes.all",
    "planner.allocation",
    "timeline.amounts",
    "timeline.simulate",
    "timeline.trace",
    "data.partition",
)


@pytest.mark.parametrize("module", MATHEMATICS)
def test_mathematics_imports_without_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'matplotlib', 'datasets', 'PIL', 'safetensors'}"
    code = f"import sys, cutlayer.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
