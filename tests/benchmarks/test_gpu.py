"""The prepared script for a GPU, on the processor: what needs no GPU must not wait for one."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cutlayer.model.lora import RowGroups, add_low_rank

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    yield importlib.import_module("gpu")
    sys.modules.pop("gpu")


def test_a_processor_beside_itself_is_equal_to_the_bit(gpu: ModuleType, tmp_path: Path) -> None:
    found = list(gpu.equal(tmp_path, torch.device("cpu")))
    assert [one.model for one in found] == ["vit", "bert", "llama", "gpt2"]
    for one in found:
        assert (one.activation, one.gradient, one.device_adapter, one.server_adapter) == (0,) * 4


def test_another_result_is_not_equal(gpu: ModuleType) -> None:
    due = torch.tensor([1.0, -2.0])
    assert gpu._distance(due + torch.tensor([0.0, 1e-3]), due) == pytest.approx(5e-4, rel=1e-3)
    assert not gpu.Equal("vit", 0.0, 5e-4, 0.0, 0.0).holds


def test_the_loop_over_adapters_computes_the_same(gpu: ModuleType) -> None:
    draw = torch.Generator().manual_seed(0)
    x, output = torch.randn(9, 8, generator=draw), torch.randn(9, 7, generator=draw)
    groups = RowGroups((2, 3, 4), x.device)
    a, b = torch.randn(3, 2, 8, generator=draw), torch.randn(3, 7, 2, generator=draw)
    ours = add_low_rank(output, x, a, b, 0.5, groups)
    torch.testing.assert_close(gpu._one_by_one(output, x, a, b, 0.5, groups), ours)


def test_what_has_no_time_left_is_named(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert gpu.main([str(out), "--device", "cpu", "--quick", "--limit-s", "0"]) == 0
    said = capsys.readouterr().out
    assert said == (out / "gpu.txt").read_text(encoding="utf-8")
    assert "left out: ours, nf4: no time left" in said


def test_a_device_that_is_not_there_is_refused(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main([str(tmp_path), "--device", "cuda:99"])
    assert "--device is cuda:99" in capsys.readouterr().err
