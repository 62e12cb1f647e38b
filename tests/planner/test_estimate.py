"""The estimate beside the timeline: the same where nobody waits, never above it where they do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.planner.estimate import amounts_of, estimated_s, server_part
from cutlayer.planner.forecast import round_delay_s
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
)


# of SL the hand-over of the adapters takes what the broadcast of them takes elsewhere
@pytest.mark.parametrize("name", ["sft", "sft-uncompressed", "sl", "fl-lora", "fl-full"])
def test_one_device_waits_for_nobody(name: str) -> None:
    own = workloads.workload((1e9,), (17.0,))
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
)
def test_never_much_longer_than_the_timeline(
    rules: SharingRules, rates: list[float], policy: MiniBatchPolicy, server: float
) -> None:
    """A bound without a pipeline, whatever queues; with one it is off by what its ends hide."""
    ratios = [17.0 - 2 * n for n in range(len(rates))]
    own = workloads.workload(rates, ratios, server_flops_per_s=server, rules=rules)
    scheme = SCHEMES["sft-overlap" if policy.micro_batches > 1 else "sft"]
    chosen = replace(workloads.decision(own, scheme=scheme, policy=policy), rules=rules)
    curves = own.channel.mean_curves()
    told = estimated_s(amounts_of(own, chosen), chosen, curves)
    seen = round_delay_s(own, chosen, curves)
    # sums of some hundred terms; of F micro-batches under way, the first and the last stand alone
    slack = 1e-12 if policy.micro_batches == 1 else 1 / policy.in_flight
    assert told <= seen * (1 + slack)


def test_the_servers_part_of_a_round() -> None:
    own = workloads.workload()
    chosen = workloads.decision(own)
    amounts, curves = amounts_of(own, chosen), own.channel.mean_curves()
    delay_s = estimated_s(amounts, chosen, curves)
    busy_s = 3 * 4 * own.accounting.flops(own.model, 2, own.batch).server / 2e10
    assert server_part(amounts, chosen, delay_s) == pytest.approx(busy_s / delay_s, rel=1e-12)
    none = workloads.decision(own, scheme=SCHEMES["fl-lora"])
    assert server_part(amounts_of(own, none), none, delay_s) == 0
