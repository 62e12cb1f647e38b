"""The estimate beside the timeline: the same where nobody waits, never above it where they do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.planner.estimate import amounts_of, estimated_s, server_part
from cutlayer.planner.forecast import round_delay_s
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.rounds.schemes import SCHEMES
from cutlayer.rounds.work import Duplex, Sharing, SharingRules
from cutlayer.spec import MiniBatchPolicy
from examples import at_most
from planner import workloads

RULES = (
    SharingRules(),
    SharingRules(downlink=Sharing.IN_TURN),
    SharingRules(downlink=Sharing.SHARED),
    SharingRules(duplex=Duplex.HALF),
    SharingRules(server_workers=2),
    SharingRules(batching=ServerBatching(ServerBatch.ARRIVALS)),
    SharingRules(batching=ServerBatching(ServerBatch.ARRIVALS, most_tokens=300)),
)


# of SL the hand-over of the adapters takes what the broadcast of them takes elsewhere
@pytest.mark.parametrize(
    "name", ["sft", "sft-uncompressed", "sft-frozen", "sl", "fl-lora", "fl-full"]
)
@pytest.mark.parametrize("rules", [RULES[0], RULES[-1]], ids=["alone", "arrivals"])
@pytest.mark.parametrize("block_s", [0.0, 0.5])
def test_one_device_waits_for_nobody(name: str, rules: SharingRules, block_s: float) -> None:
    own = workloads.workload((1e9,), (17.0,), rules=rules, server_block_s=block_s)
    chosen = workloads.decision(own, scheme=SCHEMES[name])
    curves = own.channel.mean_curves()
    seen = round_delay_s(own, chosen, curves)
    told = estimated_s(amounts_of(own, chosen), chosen, curves)
    assert told == pytest.approx(seen, rel=1e-12)


@at_most(40)
@given(
    st.sampled_from(RULES),
    st.lists(st.floats(3e8, 3e10), min_size=2, max_size=5),
    st.sampled_from(
        [
            MiniBatchPolicy(),
            MiniBatchPolicy(micro_batches=4, in_flight=2),
            MiniBatchPolicy(micro_batches=8, in_flight=8),
        ]
    ),
    st.floats(1e9, 1e11),
    st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_never_much_longer_than_the_timeline(
    rules: SharingRules, rates: list[float], policy: MiniBatchPolicy, server: float, block_s: float
) -> None:
    """A bound without a pipeline, whatever queues; with one it is off by what its ends hide."""
    ratios = [17.0 - 2 * n for n in range(len(rates))]
    own = workloads.workload(
        rates, ratios, server_flops_per_s=server, rules=rules, server_block_s=block_s
    )
    scheme = SCHEMES["sft-overlap" if policy.micro_batches > 1 else "sft"]
    chosen = replace(workloads.decision(own, scheme=scheme, policy=policy), rules=rules)
    curves = own.channel.mean_curves()
    told = estimated_s(amounts_of(own, chosen), chosen, curves)
    seen = round_delay_s(own, chosen, curves)
    # sums of some hundred terms; of F micro-batches under way, the first and the last stand alone
    slack = 1e-12 if policy.micro_batches == 1 else 1 / policy.in_flight
    assert told <= seen * (1 + slack)


def test_ten_devices_do_not_cost_ten_times_one_where_they_share_passes() -> None:
    """Of blocks that take 50 ms whatever they compute, of which the server has four."""
    block_s, steps = 0.05, 4
    told: dict[tuple[ServerBatch, int], float] = {}
    for batch in ServerBatch:
        rules = SharingRules(batching=ServerBatching(batch))
        for count in (1, 10):
            own = workloads.workload(
                (4e9,) * count,
                (17.0,) * count,
                server_flops_per_s=1e15,
                bandwidth_hz=2e6 * count,
                rules=rules,
                server_block_s=block_s,
                local_steps=steps,
            )
            chosen, curves = workloads.decision(own), own.channel.mean_curves()
            estimate_s = estimated_s(amounts_of(own, chosen), chosen, curves)
            assert estimate_s <= round_delay_s(own, chosen, curves) * (1 + 1e-12)
            told[batch, count] = round_delay_s(own, chosen, curves)
    # the broadcast has the bandwidth of ten
    assert told[ServerBatch.ARRIVALS, 10] == pytest.approx(told[ServerBatch.ALONE, 1], rel=0.05)
    assert told[ServerBatch.ALONE, 10] > 10 * steps * 4 * block_s


def test_the_servers_part_of_a_round() -> None:
    own = workloads.workload()
    chosen = workloads.decision(own)
    amounts, curves = amounts_of(own, chosen), own.channel.mean_curves()
    delay_s = estimated_s(amounts, chosen, curves)
    busy_s = 3 * 4 * own.accounting.flops(own.model, 2, own.batch).server / 2e10
    assert server_part(amounts, chosen, delay_s) == pytest.approx(busy_s / delay_s, rel=1e-12)
    none = workloads.decision(own, scheme=SCHEMES["fl-lora"])
    assert server_part(amounts_of(own, none), none, delay_s) == 0
