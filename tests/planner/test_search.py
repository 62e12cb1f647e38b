"""The joint search against all that it could have chosen, and against what it has to beat."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.planner.decision import FixedChoices, PlanLimits, device_need, least_limit
from cutlayer.planner.forecast import round_delay_s
from cutlayer.planner.plan import make_plan, published_plan
from cutlayer.planner.search import ranked_decisions, rules_for, search_decisions
from cutlayer.rounds.schemes import SCHEMES, SFT, SFT_OVERLAP
from cutlayer.rounds.work import Duplex, Sharing, SharingRules
from cutlayer.spec import ActivationPolicy, MiniBatchPolicy
from examples import at_most
from planner import workloads

CODECS = (workloads.BEST,)


# of two to four devices: rates [FLOP/s], ratios [dB], memory [MiB]
some_devices = st.lists(
    st.tuples(
        st.floats(2e8, 5e10), st.floats(-3.0, 27.0), st.one_of(st.none(), st.floats(1.2, 8.0))
    ),
    min_size=2,
    max_size=4,
)


@at_most(12)
@given(some_devices, st.floats(1e9, 1e11), st.floats(3e4, 3e7), st.booleans(), st.integers(1, 3))
def test_never_slower_than_the_papers_plan_on_the_timeline(
    devices: list[tuple[float, float, float | None]],
    server: float,
    bandwidth_hz: float,
    constant_power: bool,
    least_cut: int,
) -> None:
    own = workloads.workload(
        *zip(*devices, strict=True),
        server_flops_per_s=server,
        bandwidth_hz=bandwidth_hz,
        constant_power=constant_power,
        local_steps=2,
    )
    bounds = workloads.limits(own, least_cut=least_cut)
    curves = own.channel.mean_curves()
    published = published_plan(own, bounds, workloads.PAPER, curves)
    plan = make_plan(own, bounds, SFT, workloads.CODECS, 0.02)
    assert published is None or plan.chosen is not None
    if published is not None and plan.chosen is not None:
        # both are the same simulation
        assert plan.chosen.delay_s <= round_delay_s(own, published, curves) * (1 + 1e-12)


@at_most(12)
@given(some_devices, st.floats(1e9, 1e11), st.floats(3e4, 3e7))
def test_what_is_chosen_keeps_every_limit(
    devices: list[tuple[float, float, float | None]], server: float, bandwidth_hz: float
) -> None:
    own = workloads.workload(
        *zip(*devices, strict=True),
        server_flops_per_s=server,
        bandwidth_hz=bandwidth_hz,
        local_steps=2,
    )
    bounds = workloads.limits(
        own, least_cut=2, server_busy=0.8, most_share=(0.5,) * len(own.devices)
    )
    plan = make_plan(own, bounds, SFT, workloads.CODECS, 0.02)
    if plan.chosen is None:
        assert plan.infeasibilities
        return
    decision = plan.chosen.decision
    assert plan.chosen.fits
    assert min(decision.cuts) >= 2
    assert max(decision.shares) <= 0.5 + 1e-12
    assert sum(decision.shares) <= 1 + 1e-9


def test_the_fastest_of_all_candidates_on_the_timeline() -> None:
    """Few enough here to play every one: the search finds the best of them, or a better one."""
    own = workloads.workload()
    bounds, curves = workloads.limits(own), own.channel.mean_curves()
    candidates = ranked_decisions(own, bounds, SFT, CODECS, curves)
    every = min(round_delay_s(own, each.decision, curves) for each in candidates)
    found = search_decisions(own, bounds, candidates, curves)
    assert found is not None
    assert found.delay_s == round_delay_s(own, found.decision, curves)
    # what is not played is estimated to be slower than forty others
    assert found.delay_s <= every * 1.01


def test_candidates_are_every_cut_that_fits() -> None:
    own = workloads.workload(memory_mib=(3.0, None, 2.0))
    bounds, curves = workloads.limits(own, least_cut=2), own.channel.mean_curves()
    candidates = ranked_decisions(own, bounds, SFT, CODECS, curves)
    limit = least_limit(own)
    assert limit is not None
    for each in candidates:
        decision = each.decision
        assert device_need(own, decision.scheme, decision.cuts[0], decision.policy).total <= limit
    assert {each.decision.cuts[0] for each in candidates} <= set(range(2, 6))
    assert [c.estimated_s for c in candidates] == sorted(c.estimated_s for c in candidates)


def test_a_slow_server_must_not_be_kept_busy() -> None:
    own = workloads.workload(server_flops_per_s=2e9)
    curves = own.channel.mean_curves()
    candidates = ranked_decisions(own, workloads.limits(own), SFT, CODECS, curves)
    free = search_decisions(own, workloads.limits(own), candidates, curves)
    calm = search_decisions(own, workloads.limits(own, server_busy=0.3), candidates, curves)
    assert free is not None and calm is not None
    assert calm.decision.cuts[0] > free.decision.cuts[0]
    assert calm.delay_s > free.delay_s


def test_the_downlink_is_the_servers_to_share() -> None:
    ways = rules_for(SharingRules(uplink=Sharing.SHARED), SFT)
    assert {rules.downlink for rules in ways} == set(Sharing)
    assert {rules.uplink for rules in ways} == {Sharing.SHARED}
    half = SharingRules(duplex=Duplex.HALF)
    assert rules_for(half, SFT) == (half,)
    assert rules_for(SharingRules(), SCHEMES["sl"]) == (SharingRules(),)


def test_what_is_fixed_is_in_every_candidate() -> None:
    own = workloads.workload()
    policy = ActivationPolicy.CHECKPOINT
    fixed = FixedChoices(
        scheme=True,
        cut=3,
        activation_memory=policy,
        micro_batches=3,
        downlink=True,
        shares=(0.2, 0.3, 0.5),
    )
    bounds, curves = workloads.limits(own, fixed=fixed), own.channel.mean_curves()
    found = ranked_decisions(own, bounds, SFT, CODECS, curves)
    assert [each.decision.codec for each in found] == list(CODECS)
    for each in found:
        decision = each.decision
        assert (decision.cuts, decision.shares) == ((3, 3, 3), (0.2, 0.3, 0.5))
        assert (decision.scheme, decision.rules) == (SFT, own.rules)
        assert decision.policy == MiniBatchPolicy(policy, 3)
    made = make_plan(own, bounds, SFT, workloads.CODECS, 0.02)
    assert made.chosen is not None
    assert fixed.keeps(made.chosen.decision)
    assert [row.cut for row in made.cuts] == [3]


def test_a_pipeline_of_fixed_depth() -> None:
    own, fixed = workloads.workload(), FixedChoices(micro_batches=6, in_flight=3)
    bounds = workloads.limits(own, fixed=fixed)
    found = ranked_decisions(own, bounds, SFT, CODECS, own.channel.mean_curves())
    policies = {(each.decision.scheme, each.decision.policy) for each in found}
    assert policies == {
        (SFT, MiniBatchPolicy(micro_batches=6)),
        (SFT_OVERLAP, MiniBatchPolicy(micro_batches=6, in_flight=3)),
    }


def test_a_cut_for_each_device_is_never_slower_than_one_for_all() -> None:
    """A device three hundred times as slow as others beside a slow server: it keeps less."""
    own = workloads.workload(
        (1e8, 3e10, 3e10), (17.0,) * 3, server_flops_per_s=4e8, bandwidth_hz=2e7
    )
    curves = own.channel.mean_curves()
    common, each = (
        make_plan(own, workloads.limits(own, per_device_cuts=own_cuts), SFT, workloads.CODECS, 0.02)
        for own_cuts in (False, True)
    )
    assert common.chosen is not None and each.chosen is not None
    assert each.chosen.delay_s < 0.99 * common.chosen.delay_s
    cuts = each.chosen.decision.cuts
    assert cuts[0] < min(cuts[1:])
    assert each.chosen.delay_s == pytest.approx(
        round_delay_s(own, each.chosen.decision, curves), rel=1e-12
    )


def test_each_device_holds_what_fits_it() -> None:
    own = workloads.workload((3e10,) * 3, (17.0,) * 3, (1.5, 100.0, 100.0), server_flops_per_s=1e9)
    plan = make_plan(own, workloads.limits(own, per_device_cuts=True), SFT, workloads.CODECS, 0.02)
    assert plan.chosen is not None and plan.chosen.fits


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_can_be_planned(name: str) -> None:
    own = workloads.workload()
    plan = make_plan(own, workloads.limits(own), SCHEMES[name], workloads.CODECS, 0.02)
    assert plan.chosen is not None
    assert np.isfinite(plan.chosen.training_s)
    if name not in ("sft", "sft-overlap"):
        assert plan.chosen.decision.scheme.name == name


def test_limits_that_cannot_be() -> None:
    for change, message in (
        ({"most_share": (0.0,)}, "largest share is 0"),
        ({"most_share": (float("nan"),)}, "largest share is nan"),
        ({"server_busy": 1.5}, "server_busy is 1.5"),
        ({"least_cut": 0}, "least_cut is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(PlanLimits((1.0,)), **change)
