"""The two accountings offer the same three questions."""

import pytest

from cutlayer.rounds.memory import ACCOUNTINGS, Accounting
from cutlayer.rounds.vit import VIT_BASE, vit_spec
from cutlayer.spec import ActivationPolicy, MiniBatch, Trained


def test_names() -> None:
    assert list(ACCOUNTINGS) == ["paper", "physical"]
    assert all(name == accounting.name for name, accounting in ACCOUNTINGS.items())


@pytest.mark.parametrize("accounting", ACCOUNTINGS.values(), ids=lambda found: found.name)
@pytest.mark.parametrize("trained", list(Trained))
def test_all_grow_with_the_cut_and_the_batch(accounting: Accounting, trained: Trained) -> None:
    spec = vit_spec(VIT_BASE)

    def sizes(cut: int, samples: int) -> list[float]:
        batch = MiniBatch(samples, 197)
        flops = accounting.flops(spec, cut, batch, trained)
        traffic = accounting.traffic(spec, cut, batch, trained)
        return [
            flops.device_forward,
            flops.device_backward,
            traffic.model_bytes,
            traffic.adapter_bytes,
            accounting.memory(spec, cut, batch, trained=trained).total,
        ]

    assert all(more > less for less, more in zip(sizes(3, 8), sizes(4, 8), strict=True))
    by_batch = list(zip(sizes(3, 8), sizes(3, 9), strict=True))
    assert all(more >= less for less, more in by_batch)
    assert by_batch[0][1] > by_batch[0][0] and by_batch[-1][1] > by_batch[-1][0]


@pytest.mark.parametrize("accounting", ACCOUNTINGS.values(), ids=lambda found: found.name)
def test_a_server_that_checkpoints_runs_its_blocks_twice(accounting: Accounting) -> None:
    spec, batch = vit_spec(VIT_BASE), MiniBatch(8, 197)
    again = accounting.on_server(ActivationPolicy.CHECKPOINT)
    assert accounting.on_server(ActivationPolicy.KEEP) == accounting
    extra = []
    for cut in (2, 7):
        once, twice = (each.flops(spec, cut, batch) for each in (accounting, again))
        assert twice.server_forward == once.server_forward
        assert twice.device_backward == once.device_backward
        extra.append(twice.server_backward - once.server_backward)
    # ten blocks and five, and no head
    assert extra[0] == pytest.approx(2 * extra[1])
    assert 0 < extra[0] <= once.server_forward * 2
