"""The load benchmark, small: it runs, and finds nothing wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow("servers and two hundred frames of devices in processes")
def test_a_few_devices_play_without_errors(tmp_path: Path) -> None:
    found = tmp_path / "load.json"
    command = [sys.executable, str(BENCHMARKS / "load.py"), "--quick", "--json", str(found)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    what = json.loads(found.read_text(encoding="utf-8"))
    assert what["load"]["errors"] == []
    assert [point["round"] for point in what["load"]["points"]] == [1, 2, 3]
    assert all(point["resident_bytes"] > 0 for point in what["load"]["points"])
    names = [row["name"] for row in what["steps"]]
    assert names == ["gRPC, mutual TLS", "our link", "sessions", "sessions, journal"]
    assert what["steps"][0]["x"] == 1.0
