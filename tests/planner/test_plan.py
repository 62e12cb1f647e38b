"""What a plan says besides its decision: every cut, what binds, what it gains, why nothing fits."""

from dataclasses import replace

import pytest

from cutlayer.planner.configuration import CodecChoices
from cutlayer.planner.decision import Workload, device_need
from cutlayer.planner.explain import (
    AccuracyInfeasibility,
    CutInfeasibility,
    Limit,
    MemoryInfeasibility,
    Resource,
    ServerInfeasibility,
)
from cutlayer.planner.forecast import round_delay_s
from cutlayer.planner.plan import Plan, make_plan
from cutlayer.rounds.schemes import SCHEMES, SFT
from cutlayer.spec import ActivationPolicy, Base, MiniBatchPolicy
from cutlayer.units import MIB
from planner import workloads


def plan_of(own: Workload, codecs: CodecChoices = workloads.CODECS, **bounds: object) -> Plan:
    """The plan of SFT within these limits and two points of accuracy."""
    return make_plan(own, workloads.limits(own, **bounds), SFT, codecs, 0.02)


def test_every_cut_with_its_delay() -> None:
    own = workloads.workload()
    plan = plan_of(own)
    assert plan.chosen is not None
    assert [row.cut for row in plan.cuts] == [1, 2, 3, 4, 5]
    curves = own.channel.mean_curves()
    for row in plan.cuts:
        assert row.decision is not None and row.delay_s is not None
        assert row.delay_s == round_delay_s(own, row.decision, curves)
    assert min(row.delay_s or 0 for row in plan.cuts) >= plan.chosen.delay_s
    chosen = plan.cuts[plan.chosen.decision.cuts[0] - 1]
    assert chosen.delay_s == plan.chosen.delay_s


def test_cuts_that_do_not_fit_say_what_they_lack() -> None:
    own = workloads.workload(memory_mib=(1.0, 1.0, 1.0))
    rows = plan_of(own).cuts
    fits = [row.short is None for row in rows]
    assert fits == sorted(fits, reverse=True) and 0 < sum(fits) < 5
    for row in rows[sum(fits) :]:
        assert row.delay_s is None and row.short is not None
        assert row.short.missing_bytes == row.need.total - MIB


def test_more_of_a_resource_is_never_slower() -> None:
    own = workloads.workload()
    plan = plan_of(own)
    assert plan.chosen is not None
    assert {row.resource for row in plan.resource_sensitivities} == set(Resource)
    for row in plan.resource_sensitivities:
        assert row.saved == pytest.approx(1 - row.delay_s / plan.chosen.delay_s, abs=1e-12)
        # a tenth more of one thing cannot save more than a tenth of the whole: 1 - 1 / 1.1
        assert -0.02 <= row.saved <= 1 - 1 / 1.1 + 1e-9
    saved = [row.saved for row in plan.resource_sensitivities]
    assert saved == sorted(saved, reverse=True)


def test_what_a_slow_link_hangs_on() -> None:
    plan = plan_of(workloads.workload((1e12,) * 3, bandwidth_hz=1e4, server_flops_per_s=1e13))
    first = plan.resource_sensitivities[0]
    # computing takes nothing here, so nearly all of a tenth comes through
    assert first.resource is Resource.BANDWIDTH
    assert first.saved == pytest.approx(1 - 1 / 1.1, abs=0.005)


def test_an_accuracy_that_keeps_fewer_bits_out_binds() -> None:
    plan = plan_of(workloads.workload(bandwidth_hz=2e4))
    binding = next(each for each in plan.limit_sensitivities if each.limit is Limit.ACCURACY)
    assert binding.needed == workloads.COARSE.accuracy_loss
    assert binding.decision.codec == workloads.COARSE
    assert binding.saved > 0.01


def test_a_least_cut_and_a_memory_that_bind() -> None:
    own = workloads.workload((1e8, 1e8, 1e8), bandwidth_hz=1e8)
    deep = plan_of(own, least_cut=4)
    binding = next(each for each in deep.limit_sensitivities if each.limit is Limit.LEAST_CUT)
    assert binding.needed < 4
    slow_server = workloads.workload(
        (1e12,) * 3, memory_mib=(1.0, 1.0, 1.0), server_flops_per_s=1e9, bandwidth_hz=1e8
    )
    tight = plan_of(slow_server)
    binding = next(each for each in tight.limit_sensitivities if each.limit is Limit.MEMORY)
    assert binding.needed > MIB


def test_rivals_on_the_same_workload() -> None:
    own = workloads.workload()
    plan = plan_of(own)
    assert plan.chosen is not None
    names = [baseline.name for baseline in plan.baselines]
    assert names[:2] == ["the same on even shares", "the paper's plan"]
    others = {s.title for s in SCHEMES.values()} - {plan.chosen.decision.scheme.title}
    assert set(names[2:]) == others
    curves = own.channel.mean_curves()
    for baseline in plan.baselines:
        first = round_delay_s(own, baseline.decision, curves, first_round=True)
        assert baseline.training_s == pytest.approx(first + 4 * baseline.delay_s, rel=1e-12)
    assert all(plan.chosen.delay_s <= baseline.delay_s for baseline in plan.baselines[:2])


def test_no_memory_for_any_cut() -> None:
    own = workloads.workload(memory_mib=(100.0, 0.05, 0.01))
    plan = plan_of(own)
    assert plan.chosen is None
    (infeasibility,) = plan.infeasibilities
    assert isinstance(infeasibility, MemoryInfeasibility)
    short = infeasibility.shortage
    assert (short.device, short.cut, infeasibility.short_devices) == (2, 1, 2)
    least = min(
        device_need(own, SFT, 1, MiniBatchPolicy(activation_memory, 8)).total
        for activation_memory in ActivationPolicy
    )
    assert short.need.total == least
    assert infeasibility.embedding_bytes > short.limit_bytes
    assert infeasibility.smaller_base is not None
    base, need = infeasibility.smaller_base
    assert base is Base.NF4 and short.limit_bytes < need < short.need.total
    # the least change is enough: with it, something fits
    enough = tuple(replace(each, memory_bytes=int(least) + 1) for each in own.devices)
    assert plan_of(replace(own, devices=enough)).chosen is not None


def test_no_codec_is_accurate_enough() -> None:
    plan = plan_of(workloads.workload(), CodecChoices((), (workloads.COARSE,), None))
    assert plan.chosen is None
    assert plan.infeasibilities == (AccuracyInfeasibility(0.02, workloads.COARSE),)
    nothing = plan_of(workloads.workload(), CodecChoices((), (), None))
    assert nothing.infeasibilities == (AccuracyInfeasibility(0.02, None),)


def test_a_server_that_is_always_too_busy() -> None:
    own = workloads.workload((1e12,) * 3, server_flops_per_s=1e9, bandwidth_hz=1e8)
    plan = plan_of(own, CodecChoices((workloads.BEST,), (), None), server_busy=0.05)
    assert plan.chosen is None
    (infeasibility,) = plan.infeasibilities
    assert isinstance(infeasibility, ServerInfeasibility)
    assert infeasibility.least > 0.05
    again = plan_of(own, CodecChoices((workloads.BEST,), (), None), server_busy=infeasibility.least)
    assert again.chosen is not None


def test_a_least_cut_that_no_model_has() -> None:
    plan = plan_of(workloads.workload(), least_cut=6)
    assert plan.chosen is None
    assert plan.infeasibilities == (CutInfeasibility(6, 5),)
