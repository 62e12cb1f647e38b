"""A run over links ends with the trainer's own adapters, and sends the trainer's own bytes."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.data.samples import BatchMaker
from cutlayer.jobs.prepare import prepare
from cutlayer.rounds.schemes import Phase
from cutlayer.training.round import RoundOutcome
from cutlayer.training.state import EvaluationRule, Setup
from net.harness import Run, final, play, same_adapters, trained
from net.recompute import final as final_adapters
from net.recompute import replayed

DEVICES = 3
# all that a step may be made of
STEPPED: dict[str, dict[str, object]] = {
    "training": {"label_smoothing": 0.1},
    "adapter": {"dropout": 0.3, "rslora": True, "rank_pattern": {"query": 3}},
    "optimizer": {
        "head_learning_rate": 0.05,
        "clip_norm": 0.02,
        "betas": [0.8, 0.95],
        "eps": 1e-6,
        "schedule": {"name": "cosine", "warmup_steps": 1, "end_fraction": 0.1},
    },
}


@pytest.mark.parametrize(
    ("folders", "codec", "micro_batches", "base", "sections"),
    [
        ("vision", "none", 1, "float32", {}),
        ("vision", "paper", 1, "float32", {}),
        ("vision", "best", 1, "float32", {}),
        ("vision", "paper", 3, "float32", {}),
        ("bert", "paper", 1, "int8", {}),
        ("llama", "best", 2, "nf4", {}),
        ("bert", "fast", 2, "float32", STEPPED),
        ("vision", "best", 1, "float32", {"device_part": {"name": "frozen"}}),
        ("bert", "fast", 2, "float32", STEPPED | {"device_part": {"name": "frozen"}}),
        ("llama", "best", 2, "nf4", {"device_part": {"name": "warm"}}),
        ("vision", "paper", 3, "float32", {"device_part": {"name": "warm"}}),
    ],
)
def test_a_run_over_links_is_the_trainers_run(
    folders: str,
    codec: str,
    micro_batches: int,
    base: str,
    sections: dict[str, dict[str, object]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Whatever order activations arrive in: nothing of a device depends on another one before the
    round closes."""
    config = tiny.config(
        *request.getfixturevalue(folders),
        codec=codec,
        training={
            "rounds": 2,
            "local_steps": 2,
            "batch_size": 4,
            "micro_batches": micro_batches,
            **sections.get("training", {}),
        },
        optimizer=sections.get("optimizer", {}),
        adapter=sections.get("adapter", {}),
        device_part=sections.get("device_part", {}),
        devices={"base": base},
        server={"base": base},
    )
    check_equal(prepare(config).setup, tmp_path)


@pytest.mark.parametrize(
    ("codec", "device_part"),
    [("int8", "trained"), ("best", "trained"), ("best", {"name": "warm", "rounds": 1})],
)
def test_coded_adapters_over_links_are_the_trainers(
    codec: str, device_part: object, vision: tuple[Path, Path], tmp_path: Path
) -> None:
    """Packet by packet, both ways; of a part that is frozen then, what devices have."""
    sections = {"adapter_codec": codec, "device_part": device_part}
    check_equal(prepare(tiny.config(*vision, codec="none", **sections)).setup, tmp_path)


@pytest.mark.parametrize("maker", [tiny.Masked, tiny.Packed])
def test_a_run_of_texts_in_which_few_tokens_count_is_the_trainers_run(
    maker: type[BatchMaker], llama: tuple[Path, Path], tmp_path: Path
) -> None:
    """Some micro-batches have nothing that counts."""
    training = {"rounds": 2, "local_steps": 2, "batch_size": 4, "micro_batches": 4}
    config = tiny.config(*llama, codec="best", training=training)
    check_equal(tiny.with_batches(prepare(config).setup, maker), tmp_path)


@pytest.mark.parametrize(
    ("aggregation", "every", "adapters"),
    [
        ("none", 1, "none"),
        ("none", 3, "none"),
        ("none", 3, "best"),
        ("device", 1, "best"),
        ("server", 3, "none"),
        ("server", 1, "int8"),
        ({"name": "fedprox", "mu": 0.5}, 1, "none"),
        ({"name": "fedprox", "mu": 0.5}, 1, "best"),
        ("median", 1, "none"),
        ("trimmed-mean", 1, "int8"),
        ("norm-clipped", 1, "best"),
        ("krum", 3, "none"),
    ],
)
def test_what_is_merged_over_links_is_what_the_trainer_merges(
    aggregation: object, every: int, adapters: str, vision: tuple[Path, Path], tmp_path: Path
) -> None:
    """And what is not, each device keeps; it is sent in evaluated rounds alone."""
    sections = {"aggregation": aggregation, "adapter_codec": adapters}
    setup = prepare(tiny.config(*vision, codec="none", **sections)).setup
    rule = EvaluationRule(every=every, rounds=3)
    setup = replace(setup, server=replace(setup.server, evaluation=rule))
    outcomes = trained(setup, 3)
    run = Run(setup, tmp_path, rounds=3)
    asyncio.run(play(run))
    assert same_adapters(final(run), outcomes[-1].state)
    for number, outcome in enumerate(outcomes, start=1):
        expected = outcome.round_costs.bytes_by_payload()
        expected.pop("weights", None)
        expected["adapter_down"] = DEVICES * expected.get("adapter_down", 0)
        counted = run.crossed[number]
        assert counted.pop("overhead") > 0
        assert counted == expected
        check_measured(run, number, outcome)


# of which two fit in a row
_SHORT = "{% for turn in messages %}{{ turn['content'] }} [EOS] {% endfor %}"


@pytest.mark.parametrize(
    "rows",
    [
        {"chat_template": tiny.CHAT_TEMPLATE, "max_tokens": 12, "too_long": "left"},
        {"chat_template": _SHORT, "max_tokens": 16, "packing": "documents"},
    ],
    ids=lambda rows: str(rows.get("packing", "none")),
)
def test_a_run_of_conversations_is_the_trainers_run(
    rows: dict[str, object], llama: tuple[Path, Path], tmp_path: Path
) -> None:
    """Rows of the assistant's last words, or of several conversations, dealt by who wrote them."""
    config = tiny.config(
        llama[0],
        tiny.chats(tmp_path / "chats.jsonl"),
        codec="best",
        data=rows,
        partition="iid" if "packing" in rows else {"name": "column", "column": "sender"},
        training={"rounds": 2, "local_steps": 2, "batch_size": 4, "micro_batches": 2},
    )
    setup = prepare(config).setup
    device = setup.devices[0]
    documents = device.batch(device.indices(1, 0)).documents
    assert any(len(row) > 1 for row in documents or ()) == ("packing" in rows)
    check_equal(setup, tmp_path)


def check_equal(setup: Setup, tmp_path: Path) -> None:
    """The trainer's adapters, optimiser states and bytes are those of a run over links."""
    outcomes = trained(setup)
    run = Run(setup, tmp_path)
    asyncio.run(play(run))
    assert same_adapters(final(run), outcomes[-1].state)
    for name, value in outcomes[-1].state.server.optimizer.items():
        assert torch.equal(final(run).server.optimizer[name], value)
    for number, outcome in enumerate(outcomes, start=1):
        expected = outcome.round_costs.bytes_by_payload()
        expected.pop("weights", None)
        # on the air once for all who hear it; a link each over a network
        expected["adapter_down"] = DEVICES * expected.get("adapter_down", 0)
        counted = run.crossed[number]
        assert counted.pop("overhead") > 0
        assert _some(counted) == _some(expected)
        check_measured(run, number, outcome)
    assert replayed(run).same(final_adapters(run))


def _some(payloads: dict[str, int]) -> dict[str, int]:
    """Those of any bytes."""
    return {name: size for name, size in payloads.items() if size}


def check_measured(run: Run, number: int, outcome: RoundOutcome) -> None:
    """Every device's round was seen whole, and sent what the trainer's did, step by step."""
    measured = run.measured[number]
    assert measured is not None and set(measured.devices) == set(range(DEVICES))
    sent = (Phase.ACTIVATION_UP, Phase.GRADIENT_DOWN, Phase.ADAPTER_UP)
    for device in range(DEVICES):
        phases = measured.phase_seconds(device)
        assert phases is not None
        assert sum(phases.values()) == pytest.approx(measured.took_s[device])
        assert phases[Phase.DEVICE_FORWARD] > 0 and phases[Phase.SERVER_COMPUTE] > 0
        found = [
            (event.local_step, event.micro_batch, event.phase, event.payload_bytes)
            for event in measured.events()
            if event.device == device and event.phase in sent
        ]
        assert found == [
            (event.local_step, event.micro_batch, event.phase, event.payload_bytes)
            for event in outcome.timeline.device_events(device)
            if event.phase in sent
        ]
