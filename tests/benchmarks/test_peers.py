"""The figures of `peers.py`, of runs made up; the work itself as files."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "peers.py"


def _loaded() -> ModuleType:
    """The script, which lies in no package."""
    spec = importlib.util.spec_from_file_location("peers", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peers"] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


peers = _loaded()


def played(**changed: object) -> object:
    """Four rounds of 2 s each from second 10 on, at one processor second a second."""
    times = [float(second) for second in range(30)]
    marks = {f"begin {n}": 8.0 + 2 * n for n in range(1, 6)}
    marks |= {f"end {n}": 10.0 + 2 * n for n in range(1, 6)}
    values = {
        "marks": marks,
        "accuracy": 0.5,
        "trained": {"a": np.array([3.0, 4.0])},
        "began": 0.0,
        "ended": 29.0,
        "times": times,
        "cpu_s": times,
        "driver_mib": [1.0] * 30,
        "workers_mib": [2.0] * 30,
    }
    return peers.Played(**{**values, **changed})


def test_steady_rounds_are_neither_the_first_nor_the_last() -> None:
    assert peers.Played.steady(played(), 5) == pytest.approx((6.0, 6.0))


def test_how_far_two_are_apart_is_of_their_length() -> None:
    other = played(trained={"a": np.array([3.0, 4.5])})
    assert peers._apart(played(), other) == pytest.approx(0.1)
    assert peers._apart(played(), played()) == 0.0


def test_noise_is_that_of_two_accuracies() -> None:
    work = peers.Work(devices=8, rounds=5, test_samples=200)
    assert peers._noise(work, [(played(), played())]) == pytest.approx(0.1)


def test_names_of_a_file_and_of_a_module_are_one() -> None:
    lora = "base_model.model.encoder.0.query.lora_A"
    assert peers._plain(f"{lora}.default.weight") == peers._plain(f"{lora}.weight")
    head = "base_model.model.classifier"
    assert peers._plain(f"{head}.modules_to_save.default.bias") == peers._plain(f"{head}.bias")


def test_the_work_is_told_in_numbers_alone() -> None:
    work = peers.Work(devices=8, rounds=3)
    assert peers.Work(**json.loads(json.dumps(vars(work)))) == work
    config = work.config(7)
    assert (config.seed, config.devices.count, config.scheme.name) == (7, 8, "fl-lora")
