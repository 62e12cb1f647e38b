"""A server that serves together whoever has arrived, against seconds worked by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import SFT, SFT_FROZEN, SFT_OVERLAP, SL, Phase, Scheme
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork, Sharing, SharingRules
from examples import at_most
from rounds.works import UNIT, spans, work, works


def arrivals(most_tokens: int = 1_000, coalesce_s: float = 0.0, workers: int = 1) -> SharingRules:
    batching = ServerBatching(ServerBatch.ARRIVALS, most_tokens, coalesce_s)
    return SharingRules(workers, batching=batching)


def served(
    forward_s: float, server_s: float, *, floor_s: float = 0.0, tokens: int = 1
) -> DeviceWork:
    """One local step of two samples of `tokens`: the server is all that takes time beside it."""
    device = work([forward_s, 0.0, server_s, 0.0, 0.0], rates=replace(UNIT, server_floor_s=floor_s))
    return replace(device, served=np.array([[2, tokens]]))


def compute(timeline: RoundTimeline) -> list[tuple]:
    return spans(timeline, Phase.SERVER_COMPUTE)


def test_who_comes_while_the_server_works_is_served_together_next() -> None:
    devices = [served(1.0, 2.0), served(2.0, 3.0), served(2.5, 4.0)]
    timeline = simulate(SFT, devices, arrivals())
    assert compute(timeline) == [(1.0, 3.0), (3.0, 10.0), (3.0, 10.0)]
    assert [each.mini_batches for each in timeline.passes] == [1, 2]
    assert timeline.phase_seconds(1)[Phase.SERVER_QUEUE] == 1.0
    assert timeline.utilisation().server == pytest.approx(0.9)


def test_who_comes_at_the_same_second_is_there() -> None:
    timeline = simulate(SFT, [served(1.0, 2.0)] * 3, arrivals())
    assert compute(timeline) == [(1.0, 7.0)] * 3


def test_ten_devices_do_not_cost_ten_times_one_where_a_pass_takes_as_long_anyway() -> None:
    devices = [served(1.0, 0.5, floor_s=5.0)] * 10
    together, alone = simulate(SFT, devices, arrivals()), simulate(SFT, devices)
    assert together.delay_s == 6.0
    assert alone.delay_s == 51.0
    assert alone.utilisation().server == pytest.approx(50 / 51)
    assert simulate(SFT, devices[:1]).delay_s == simulate(SFT, devices[:1], arrivals()).delay_s


def test_each_of_two_workers_takes_all_that_wait() -> None:
    devices = [served(1.0, 2.0), served(1.5, 2.0), served(2.0, 2.0), served(2.5, 2.0)]
    timeline = simulate(SFT, devices, arrivals(workers=2))
    assert compute(timeline) == [(1.0, 3.0), (1.5, 3.5), (3.0, 7.0), (3.0, 7.0)]


def test_a_budget_ends_a_batch() -> None:
    timeline = simulate(SFT, [served(1.0, 2.0, tokens=5)] * 3, arrivals(most_tokens=20))
    assert compute(timeline) == [(1.0, 5.0), (1.0, 5.0), (5.0, 7.0)]


def test_texts_of_other_lengths_are_other_passes_and_padding_is_computed() -> None:
    devices = [
        served(1.0, 8.0, tokens=8),
        served(1.0, 30.0, tokens=30),
        served(1.0, 10.0, tokens=10),
    ]
    timeline = simulate(SFT, devices, arrivals())
    # two of 10 tokens, of which one has 8; then the long one
    assert compute(timeline) == [(1.0, 21.0), (21.0, 51.0), (1.0, 21.0)]


def test_the_oldest_waits_as_long_as_it_is_told_unless_all_are_there() -> None:
    devices = [served(1.0, 2.0), served(2.0, 2.0), served(9.0, 2.0)]
    timeline = simulate(SFT, devices, arrivals(coalesce_s=4.0))
    assert compute(timeline) == [(5.0, 9.0), (5.0, 9.0), (9.0, 11.0)]
    timeline = simulate(SFT, devices[:2], arrivals(coalesce_s=4.0))
    assert compute(timeline) == [(2.0, 6.0)] * 2


def test_micro_batches_of_one_device_share_a_pass_too() -> None:
    device = work([1.0, 0.0, 4.0, 0.0, 1.0], micro_batches=3)
    timeline = simulate(SFT_OVERLAP, [device], arrivals())
    assert compute(timeline) == [(1.0, 5.0), (5.0, 13.0), (5.0, 13.0)]


def test_devices_in_turn_have_nobody_to_share_with() -> None:
    devices = [served(1.0, 2.0), served(1.0, 3.0)]
    together = simulate(SL, devices, arrivals())
    assert together.delay_s == simulate(SL, devices).delay_s == 7.0
    assert [each.mini_batches for each in together.passes] == [1, 1]


@at_most(60)
@given(works(micro_batches=1), st.sampled_from(list(Sharing)), st.integers(1, 2))
def test_one_at_a_time_it_is_the_server_in_order_of_arrival(
    devices: list[DeviceWork], sharing: Sharing, workers: int
) -> None:
    alone = SharingRules(workers, sharing, sharing)
    batching = ServerBatching(ServerBatch.ARRIVALS, most_tokens=1)
    single = replace(alone, batching=batching)
    assert list(simulate(SFT, devices, single).events()) == list(
        simulate(SFT, devices, alone).events()
    )


@at_most(60)
@given(works(whole=True), st.floats(0.0, 20.0), st.sampled_from([SFT, SFT_OVERLAP]))
def test_passes_follow_each_other_and_no_work_is_lost(
    devices: Sequence[DeviceWork], coalesce_s: float, scheme: Scheme
) -> None:
    timeline = simulate(scheme, devices, arrivals(coalesce_s=coalesce_s))
    for first, second in zip(timeline.passes, timeline.passes[1:], strict=False):
        assert first.end_s <= second.start_s
    brought = sum(device.amounts[Phase.SERVER_COMPUTE].sum() for device in devices)
    # whole seconds add up exactly; the pauses between passes are not whole
    took = sum(each.end_s - each.start_s for each in timeline.passes)
    assert took == pytest.approx(brought, rel=1e-12)
    visits = sum(np.count_nonzero(device.amounts[Phase.SERVER_COMPUTE]) for device in devices)
    assert sum(each.mini_batches for each in timeline.passes) == visits


def test_a_device_that_streams_has_one_mini_batch_in_a_pass() -> None:
    """The second waits for the first one's step, though both are there; another device's does
    not."""
    device = work([0.0, 0.0, 1.0, 0.0, 0.0], 3)
    passes = [simulate(SFT_FROZEN, [device] * count, arrivals()).passes for count in (1, 3)]
    assert [each.mini_batches for each in passes[0]] == [1, 1, 1]
    # three of one are there before the first is served
    assert sum(each.mini_batches for each in passes[1]) == 9
    assert max(each.mini_batches for each in passes[1]) == 3
