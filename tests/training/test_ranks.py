"""Devices of several ranks: what they train and send, how they are merged, memory and refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.check import check
from cutlayer.jobs.plan import plan
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import resume, start
from cutlayer.model.lora import RowLayout
from cutlayer.model.peft_format import read_adapter
from cutlayer.model.ranks import Components, ProductMean
from cutlayer.planner.forecast import forecast_rounds
from cutlayer.rounds.schemes import Phase
from cutlayer.training.adapter_rows import pack_adapter
from cutlayer.training.cohort import Cohort, CohortEnd
from cutlayer.training.expected import initial_state
from cutlayer.training.memory import device_needs
from cutlayer.training.round import Round, RoundOutcome
from cutlayer.training.state import Setup

Folders = tuple[Path, Path]
RANKS = (1, 2, 4)
ADAPTER = {"rank": list(RANKS), "alpha": 4}
PRODUCT = {"merge": "product"}


def _setup(folders: Folders, **sections: object) -> Setup:
    sections = {"codec": "none", "adapter": ADAPTER, **sections}
    setup = prepare(tiny.config(*folders, **sections)).setup
    return replace(setup, simulation=replace(setup.simulation, group=2))


def _played(setup: Setup, rounds: int) -> list[RoundOutcome]:
    outcomes: list[RoundOutcome] = []
    state = initial_state(setup)
    for _ in range(rounds):
        outcomes.append(Round(setup, state).play())
        state = outcomes[-1].state
    return outcomes


def _packet_bytes(layout: RowLayout, first: int, end: int) -> int:
    """Of components `first` to `end - 1`, whole."""
    return len(pack_adapter(torch.zeros(Components(layout, first, end).own.parameters)))


@pytest.mark.parametrize("scheme", ["sft", "fl-lora"])
def test_a_device_sends_its_own_rank_and_hears_its_own_rank(vision: Folders, scheme: str) -> None:
    """On the air each component is once; the timeline has what each device waits for."""
    setup = _setup(vision, scheme=scheme)
    layouts = [part.adapted.layout for part in setup.parts]
    layouts = layouts[:1] if scheme == "sft" else layouts
    outcome = _played(setup, 2)[1]
    up = [sum(_packet_bytes(own, 0, rank) for own in layouts) for rank in RANKS]
    parts = [
        sum(_packet_bytes(own, first, end) for own in layouts)
        for first, end in ((0, 1), (1, 2), (2, 4))
    ]
    sent = outcome.round_costs.bytes_by_payload()
    assert sent["adapter_up"] == sum(up) and sent["adapter_down"] == sum(parts)
    for device, work in enumerate(outcome.timeline.work):
        assert work.amounts[Phase.ADAPTER_UP].tolist() == [up[device]]
        heard = sum(parts[: device + 1])
        assert work.amounts[Phase.MODEL_DISTRIBUTION].tolist() == [heard]
    computed = [work.amounts[Phase.DEVICE_FORWARD].sum() for work in outcome.timeline.work]
    assert computed[0] < computed[1] < computed[2]


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"aggregation": {"name": "fedprox", "mu": 1.0}},
        {"optimizer": {"name": "sgd", "weight_decay": 0.1}},
        {"aggregation": PRODUCT},
        {"aggregation": "none"},
        {"adapter_codec": "int8"},
        {"adapter": {**ADAPTER, "patch_embedding": True, "dropout": 0.1}},
    ],
)
def test_what_a_device_lacks_stays_zero(
    vision: Folders, sections: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = _setup(vision, **sections)
    seen: list[tuple[RowLayout, torch.Tensor]] = []
    end = Cohort._end

    def watched(self: Cohort) -> CohortEnd:
        sides = (self._device_side, self._server_side)
        seen.extend(
            (part.adapted.layout, side.rows) for part, side in zip(setup.parts, sides, strict=True)
        )
        return end(self)

    monkeypatch.setattr(Cohort, "_end", watched)
    state = _played(setup, 2)[-1].state
    assert len(seen) == 4
    for layout, rows in seen:
        for rank, row in zip(RANKS, rows, strict=True):
            lacks = Components(layout, rank, max(RANKS))
            assert not lacks.take(row).any() if rank < max(RANKS) else row.ne(0).any()
    for side in (state.device, state.server):
        assert side.row.isfinite().all()


def test_a_small_device_trains_as_if_all_had_its_rank(vision: Folders) -> None:
    """Before anything is merged its round is that of a run of its rank, scaled alike."""
    mixed = _played(_setup(vision, aggregation="none"), 1)[0].state
    for device, rank in enumerate(RANKS[:2]):
        setup = _setup(vision, adapter={"rank": max(RANKS), "alpha": 4}, aggregation="none")
        layout = setup.parts[0].adapted.layout
        begun = initial_state(setup)
        own = [Components(part.adapted.layout, 0, rank) for part in setup.parts]
        cut = [
            each.put(each.take(side.row))
            for each, side in zip(own, (begun.device, begun.server), strict=True)
        ]
        begun = replace(
            begun,
            device=replace(begun.device, row=cut[0]),
            server=replace(begun.server, row=cut[1]),
        )
        alone = Round(setup, begun).play().state
        assert layout.parameters == len(alone.device.row[device])
        torch.testing.assert_close(alone.device.row[device], mixed.device.row[device])
        torch.testing.assert_close(alone.server.row[device], mixed.server.row[device])


def test_product_and_zero_padding_merge_the_same_rows_in_their_ways(vision: Folders) -> None:
    kept = _played(_setup(vision, aggregation="none"), 1)[0].state
    padded = _setup(vision)
    weights = [float(device.samples) for device in padded.devices]
    states = [_played(setup, 1)[0].state for setup in (padded, _setup(vision, aggregation=PRODUCT))]
    for part, side in zip(padded.parts, ("device", "server"), strict=True):
        rows = getattr(kept, side).row
        mean, product = (getattr(state, side).row for state in states)
        torch.testing.assert_close(mean, padded.server.aggregation.merge(rows, weights))
        rule = ProductMean().of(part.adapted.layout)
        torch.testing.assert_close(product, rule.merge(rows, weights))


@pytest.mark.parametrize("sections", [{}, {"aggregation": PRODUCT, "adapter_codec": "int8"}])
def test_a_run_resumes_to_the_bit_and_leaves_the_largest_rank(
    vision: Folders, tmp_path: Path, sections: dict[str, object]
) -> None:
    config = tiny.config(*vision, adapter=ADAPTER, **sections)
    whole = start(config, tmp_path / "whole").path
    short = config.model_copy(update={"training": config.training.model_copy(update={"rounds": 1})})
    again = start(short, tmp_path / "again").path
    resume(again, changes={"training.rounds": 2})
    names = ("adapter_model.safetensors", "adapter_config.json")
    for name in names:
        read = [(path / "adapter" / name).read_bytes() for path in (whole, again)]
        assert read[0] == read[1]
    setup = prepare(config)
    adapter = read_adapter(whole / "adapter", setup.adapter)
    ranks = {value.shape[0] for name, value in adapter.items() if name.endswith("lora_A")}
    assert ranks == {max(RANKS)}


def test_each_device_needs_memory_for_its_own_rank(vision: Folders) -> None:
    """As much as if all had it, to what a product with A leaves."""
    job = prepare(tiny.config(*vision, adapter=ADAPTER, codec="none"))
    needs = device_needs(job.setup, job.memory)
    for rank, need in zip(RANKS, needs, strict=True):
        alone = prepare(tiny.config(*vision, adapter={"rank": rank, "alpha": 4}, codec="none"))
        assert need == alone.memory.device
    assert job.memory.device == needs[-1]


def test_by_memory_each_device_has_the_largest_rank_that_fits(vision: Folders) -> None:
    plain = tiny.config(*vision, codec="none")
    totals = [
        prepare(tiny.config(*vision, adapter={"rank": rank}, codec="none")).memory.device.total
        for rank in (2, 4)
    ]
    limits = [totals[0] + 1, totals[1] + 1, 10 * totals[1]]
    values = plain.model_dump(mode="json", exclude_unset=True)
    values["devices"] = {"count": 3, "memory_mib": [limit / 2**20 for limit in limits]}
    values["adapter"] = {"rank": "memory", "most_rank": 12}
    setup = prepare(Config.model_validate(values)).setup
    assert setup.training.ranks == (2, 4, 12)
    values["devices"]["memory_mib"] = [0.01, 10.0, 10.0]
    with pytest.raises(ConfigError, match=r"device 0 has .* training needs"):
        prepare(Config.model_validate(values))


def test_equal_ranks_are_one_rank(vision: Folders) -> None:
    setup = _setup(vision, adapter={"rank": [4, 4], "alpha": 4})
    assert setup.training.ranks is None
    plain = _setup(vision, adapter={"rank": 4, "alpha": 4})
    states = [_played(own, 1)[0].state for own in (setup, plain)]
    assert torch.equal(states[0].server.row, states[1].server.row)
    cycled = _setup(vision, adapter={"rank": [4, 2], "alpha": 4})
    assert cycled.training.ranks == (4, 2, 4)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"scheme": "sl"}, r"adapter.rank \[1, 2, 4\]: with scheme sl devices step the same"),
        ({"scheme": "splitlora"}, "with scheme splitlora devices step the same adapter"),
        ({"adapter": {**ADAPTER, "rank_pattern": {"up": 2}}}, "leave one of them out"),
        ({"devices": {"count": 2}}, "lists 3 ranks for devices.count 2"),
        ({"adapter": {"rank": "memory"}}, "give devices.memory_mib, or a rank"),
        ({"adapter": {"rank": [1, 0]}}, "adapter.rank: should be at least 1, not 0"),
        ({"adapter": {"rank": []}}, "adapter.rank: is an empty list"),
        ({"adapter": {"rank": [2, 99]}}, "adapter.rank 99 is above 24"),
        (
            {"scheme": "fl-full", "adapter": {}, "aggregation": PRODUCT},
            "aggregation.merge product is of adapters, and scheme fl-full has none",
        ),
    ],
)
def test_ranks_that_cannot_be_are_refused(
    vision: Folders, sections: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sections = {"adapter": ADAPTER, "devices": {"memory_mib": None}, **sections}
        check(tiny.config(*vision, **sections))


@pytest.mark.parametrize("sections", [{"adapter": ADAPTER}, {"aggregation": PRODUCT}])
def test_over_a_network_they_are_refused(vision: Folders, sections: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="over a network"):
        prepare(tiny.config(*vision, **sections), dealt=False)


def test_a_plan_counts_each_devices_own_rank(vision: Folders) -> None:
    """Its memory is a run's, and of what devices send it counts each one's; by memory the ranks are
    a run's, and go into the configuration that trains by it."""
    config = tiny.config(*vision, adapter=ADAPTER, codec="none", planner={"fix": ["cut", "codec"]})
    planned = plan(config)
    assert planned.chosen is not None and planned.plan.workload.ranks == RANKS
    needs = [need.adapters for need in planned.chosen.memory]
    setup = prepare(planned.config).setup
    layout = setup.parts[0].adapted.layout
    assert needs == [4 * Components(layout, 0, rank).own.parameters for rank in RANKS]
    other = planned.plan.workload
    for rank in (None, *RANKS):
        # a plan in which all have one rank, and where the largest is all there is
        same = replace(other, ranks=None if rank is None else (rank,) * 3)
        forecast = forecast_rounds(same, planned.chosen.decision)
        own = max(RANKS) if rank is None else rank
        sent = 3 * 4 * Components(layout, 0, own).own.parameters
        whole = forecast_rounds(replace(same, local_steps=(1, 1, 1)), planned.chosen.decision)
        step = forecast.later.uplink_bytes - whole.later.uplink_bytes
        assert forecast.later.uplink_bytes == pytest.approx(sent + 2 * step)

    values = config.model_dump(mode="json", exclude_unset=True)
    limit = float(planned.chosen.memory[1].total + 1) / 2**20
    values["adapter"] = {"rank": "memory", "most_rank": 4, "alpha": 4}
    values["devices"] = {"count": 3, "memory_mib": [limit, limit, 10.0]}
    by_memory = plan(Config.model_validate(values))
    assert by_memory.plan.workload.ranks == (2, 2, 4)
    assert by_memory.config.adapter.rank == (2, 2, 4)
