"""Modules without weights: what is left of them, and what they answer."""

import pytest
import torch
from torch import nn

from cutlayer.model.blocks import (
    CutReachedError,
    Injection,
    answer_always,
    inject_at,
    pass_through,
    stop_at,
    strip,
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_type = "full"
        self.linear = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden_states) * self.scale


def test_a_stripped_module_keeps_structure_and_types() -> None:
    unit = nn.Sequential(nn.Conv2d(3, 4, 2), nn.LayerNorm(4)).to(torch.bfloat16)
    strip(unit)
    assert list(unit.parameters()) == []
    assert unit.state_dict() == {}
    assert unit[0].weight.dtype == torch.bfloat16
    assert unit[0].weight.numel() == 0


def test_a_hollow_block_keeps_its_attributes() -> None:
    for hollow in (stop_at, lambda b: pass_through(b, 0), lambda b: inject_at(b, Injection(), 0)):
        block = Block()
        hollow(block)
        assert list(block.parameters()) == []
        assert block.attention_type == "full"


def test_the_cut_carries_the_activation_out() -> None:
    block, hidden = Block(), torch.ones(1, 2, 2)
    stop_at(block)
    with pytest.raises(CutReachedError) as reached:
        block(hidden_states=hidden)
    assert reached.value.activation is hidden


def test_blocks_answer_as_theirs_do() -> None:
    hidden, activation, injection = torch.zeros(1, 2, 2), torch.ones(1, 2, 2), Injection()
    for length in (0, 1, 3):
        passing, first = Block(), Block()
        pass_through(passing, length)
        inject_at(first, injection, length)
        with injection.of(activation):
            answers = passing(hidden), first(hidden_states=hidden)
        for found, expected in zip(answers, (hidden, activation), strict=True):
            assert (found[0] if length else found) is expected
            assert length == 0 or found[1:] == (None,) * (length - 1)


def test_an_injection_ends_with_its_pass() -> None:
    injection, unit = Injection(), nn.Embedding(5, 2)
    answer_always(unit, injection.zeros)
    activation = torch.ones(3, 4, 2, dtype=torch.bfloat16, requires_grad=True)
    with injection.of(activation):
        zeros = unit("anything", at="all")
        assert zeros.shape == (3, 4, 2) and zeros.dtype == torch.bfloat16
        assert not zeros.any() and not zeros.requires_grad
    with pytest.raises(RuntimeError, match="outside a forward pass"):
        unit()
