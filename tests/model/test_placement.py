"""The names of devices, as a user gives them, on machines that have other ones."""

import os
import sys

import pytest
import torch

from cutlayer.errors import ConfigError
from cutlayer.model.placement import (
    HOST,
    Accelerators,
    Placement,
    device_named,
    repeat_sums,
    to_device,
)
from cutlayer.spec import Base

NONE = Accelerators(cuda=0, mps=False, build="2.13.0+cpu")
BLIND = Accelerators(cuda=0, mps=False, build="2.13.0+cu130")
TWO = Accelerators(cuda=2, mps=False, build="2.13.0+cu130")
APPLE = Accelerators(cuda=0, mps=True, build="2.13.0")


@pytest.mark.parametrize(
    ("name", "seen", "device"),
    [
        ("auto", NONE, HOST),
        ("auto", TWO, torch.device("cuda", 0)),
        ("auto", APPLE, torch.device("mps", 0)),
        ("cpu", TWO, HOST),
        ("cuda", TWO, torch.device("cuda", 0)),
        ("cuda:1", TWO, torch.device("cuda", 1)),
        ("mps", APPLE, torch.device("mps", 0)),
    ],
)
def test_a_name_is_a_device(name: str, seen: Accelerators, device: torch.device) -> None:
    assert device_named(name, "server.device", seen) == device


@pytest.mark.parametrize(
    ("name", "seen", "message"),
    [
        ("tpu", TWO, "server.device is 'tpu': give auto, cpu, cuda, cuda:0, ... or mps"),
        ("cuda:-1", TWO, "server.device is 'cuda:-1': give auto"),
        ("cuda:x", TWO, "server.device is 'cuda:x': give auto"),
        (
            "cuda",
            NONE,
            "server.device is cuda, but this torch (2.13.0+cpu) sees no CUDA device: it was built"
            " without CUDA: install a build with it, or set it to auto or cpu",
        ),
        ("cuda:0", BLIND, "sees no CUDA device: check nvidia-smi and CUDA_VISIBLE_DEVICES, or set"),
        ("cuda:7", TWO, "is cuda:7, but there are 2 CUDA devices: give one of cuda:0 to cuda:1"),
        ("mps", TWO, f"is mps, but this torch (2.13.0+cu130 on {sys.platform}) sees no Apple GPU"),
    ],
)
def test_what_is_not_there_is_said(name: str, seen: Accelerators, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        device_named(name, "server.device", seen)
    assert message in str(raised.value)


def test_sums_repeat_where_there_is_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    deterministic, tf32 = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.allow_tf32,
    )
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        repeat_sums()
        assert torch.are_deterministic_algorithms_enabled() is deterministic, "the processor's do"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        repeat_sums()
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.allow_tf32
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.allow_tf32 = tf32
        torch.utils.deterministic.fill_uninitialized_memory = True


def test_what_is_there_is_not_copied() -> None:
    tensor = torch.ones(3)
    assert to_device(tensor, HOST) is tensor


def test_a_placement_has_a_title() -> None:
    assert Placement(HOST, Base.BFLOAT16).title == "cpu, bfloat16"
