"""Adapters of several ranks in rows of one layout: what each has, and the mean of products."""

import pytest
import torch

from cutlayer.model.lora import RowLayout, Slot
from cutlayer.model.optimizer import AdamW, FedAvg, Sgd
from cutlayer.model.ranks import Components, ProductMean, mean_product, revived, segments

LAYOUT = RowLayout(
    (
        Slot("p.lora_A", (6, 3, 2, 2)),
        Slot("p.lora_B", (20, 6, 1, 1)),
        Slot("q.lora_A", (6, 24)),
        Slot("q.lora_B", (30, 6)),
        Slot("head.weight", (2, 5)),
    )
)


def _row(seed: int, rank: int = 6) -> torch.Tensor:
    row = torch.randn(LAYOUT.parameters, generator=torch.Generator().manual_seed(seed))
    own = Components(LAYOUT, 0, rank)
    return own.put(own.take(row))


def _product(row: torch.Tensor, name: str) -> torch.Tensor:
    named = LAYOUT.named(row.double())
    return named[f"{name}.lora_B"].flatten(1) @ named[f"{name}.lora_A"].flatten(1)


def test_a_rank_has_the_first_components_and_the_head() -> None:
    own, row = Components(LAYOUT, 0, 4), _row(0)
    assert [slot.shape for slot in own.own.slots] == [
        (4, 3, 2, 2), (20, 4, 1, 1), (4, 24), (30, 4), (2, 5),
    ]  # fmt: skip
    values = own.own.named(own.take(row))
    whole = LAYOUT.named(row)
    assert torch.equal(values["q.lora_A"], whole["q.lora_A"][:4])
    assert torch.equal(values["p.lora_B"], whole["p.lora_B"][:, :4])
    assert torch.equal(values["head.weight"], whole["head.weight"])
    back = LAYOUT.named(own.put(own.take(row)))
    assert not back["q.lora_A"][4:].any() and not back["q.lora_B"][:, 4:].any()
    assert torch.equal(own.put(own.take(row), row), row)


def test_all_components_are_the_row_itself() -> None:
    own, row = Components(LAYOUT, 0, 6), _row(0)
    assert own.take(row) is row and own.put(row) is row and own.own == LAYOUT


def test_segments_make_up_the_row_each_value_once() -> None:
    parts, row = segments(LAYOUT, (6, 2, 3, 2)), _row(0)
    assert [(part.first, part.end) for part in parts] == [(0, 2), (2, 3), (3, 6)]
    assert sum(part.own.parameters for part in parts) == LAYOUT.parameters
    built = torch.zeros(LAYOUT.parameters)
    for part in parts:
        built = part.put(part.take(row), built)
    assert torch.equal(built, row)


@pytest.mark.parametrize("ranks", [(6, 6, 6), (1, 2, 6), (2, 2, 4), (6,)])
def test_the_mean_of_products_is_the_dense_svds(ranks: tuple[int, ...]) -> None:
    rows = torch.stack([_row(seed, rank) for seed, rank in enumerate(ranks)])
    weights = [float(n + 1) for n in range(len(ranks))]
    merged = ProductMean().of(LAYOUT).merge(rows, weights)
    for name in ("p", "q"):
        mean = sum(w * _product(row, name) for w, row in zip(weights, rows, strict=True))
        u, s, vh = torch.linalg.svd(mean / sum(weights))
        for rank in range(1, 7):
            own = Components(LAYOUT, 0, rank)
            best = (u[:, :rank] * s[:rank]) @ vh[:rank]
            # float32 of factors whose products sum to about s[0]
            found = _product(own.put(own.take(merged)), name)
            assert torch.allclose(found, best, atol=1e-5 * float(s[0]))
    head = LAYOUT.named(merged)["head.weight"]
    assert torch.equal(head, LAYOUT.named(FedAvg().merge(rows, weights))["head.weight"])


def test_many_devices_have_more_components_than_a_layer_has_inputs() -> None:
    """12 of them in the first layer, and 60 here."""
    rows = torch.stack([_row(seed) for seed in range(10)])
    merged = ProductMean().of(LAYOUT).merge(rows, [1.0] * 10)
    mean = sum(_product(row, "p") for row in rows) / 10
    u, s, vh = torch.linalg.svd(mean)
    best = (u[:, :6] * s[:6]) @ vh[:6]
    assert torch.allclose(_product(merged, "p"), best, atol=1e-5 * float(s[0]))


def test_the_mean_of_products_repeats_with_fixed_signs_and_as_long_an_a() -> None:
    rows = torch.stack([_row(0), _row(1, 3)])
    rule = ProductMean().of(LAYOUT)
    merged = rule.merge(rows, [1.0, 1.0])
    assert torch.equal(merged, rule.merge(rows, [1.0, 1.0]))
    a = LAYOUT.named(merged)["q.lora_A"]
    assert (a.gather(1, a.abs().argmax(1, keepdim=True)) > 0).all()
    lengths = LAYOUT.split(rows)["q.lora_A"].norm(dim=2)
    assert torch.allclose(a.norm(dim=1), lengths[lengths > 0].square().mean().sqrt())
    # the sum does not know in which order or with which signs devices have their components
    mirrored = -rows
    mirrored[:, -10:] = rows[:, -10:]
    assert torch.allclose(rule.merge(mirrored, [1.0, 1.0]), merged, atol=1e-6)


def test_what_was_not_trained_stays_trainable() -> None:
    """Of adapters whose B is zero still A is one that gradients pass; what no device has is
    fresh."""
    a, b = torch.randn(2, 6, 24, dtype=torch.float64), torch.zeros(2, 30, 6, dtype=torch.float64)
    a[:, 3:] = 0.0
    a[1] = a[0]
    down, up = mean_product(a, b, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert not up.any() and (down[:3].norm(dim=1) > 0.1).all()
    fresh, row = _row(1), _row(0, 2)
    found = LAYOUT.named(revived(row, fresh, LAYOUT))
    assert torch.equal(found["q.lora_A"][2:], LAYOUT.named(fresh)["q.lora_A"][2:])
    assert not found["q.lora_B"][:, 2:].any()
    assert torch.equal(found["q.lora_A"][:2], LAYOUT.named(row)["q.lora_A"][:2])
    whole = _row(2)
    assert torch.equal(revived(whole, fresh, LAYOUT), whole)


def test_nothing_at_all_is_zero() -> None:
    a, b = torch.zeros(1, 2, 4, dtype=torch.float64), torch.zeros(1, 3, 2, dtype=torch.float64)
    down, up = mean_product(a, b, torch.ones(1, dtype=torch.float64))
    assert not down.any() and not up.any()


@pytest.mark.parametrize("rule", [Sgd(0.9, 0.1), AdamW()])
def test_no_optimiser_moves_what_a_rank_lacks(rule: Sgd | AdamW) -> None:
    """The gradients of y = B A x in a component that is zero in both are zero, exactly."""
    rows = _row(0, 3)[None]
    lacks = Components(LAYOUT, 3, 6)
    state = rule.init(rows)
    x = torch.randn(24, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        leaf = rows.clone().requires_grad_()
        named = LAYOUT.split(leaf)
        y = named["q.lora_B"][0] @ (named["q.lora_A"][0] @ x)
        y.square().sum().backward()
        assert leaf.grad is not None
        rows, state = rule.step(rows, leaf.grad, state, 0.1)
    assert not lacks.take(rows[0]).any()
    assert Components(LAYOUT, 0, 3).take(rows[0]).ne(0).all()
