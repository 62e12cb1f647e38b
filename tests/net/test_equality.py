"""A run over links ends with the trainer's own adapters, and sends the trainer's own bytes."""

import asyncio
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.config.job import prepare
from net.harness import Run, final, play, same_adapters, trained
from net.recompute import final as final_adapters
from net.recompute import replayed

DEVICES = 3


@pytest.mark.parametrize(
    ("folders", "codec", "micro_batches"),
    [
        ("vision", "none", 1),
        ("vision", "paper", 1),
        ("vision", "best", 1),
        ("vision", "paper", 3),
        ("bert", "paper", 1),
        ("llama", "best", 2),
    ],
)
def test_a_run_over_links_is_the_trainers_run(
    folders: str,
    codec: str,
    micro_batches: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Whatever order activations arrive in: nothing of a device depends on another one before the
    round closes."""
    config = tiny.config(
        *request.getfixturevalue(folders),
        codec=codec,
        training={"rounds": 2, "local_steps": 2, "batch_size": 4, "micro_batches": micro_batches},
    )
    setup = prepare(config).setup
    outcomes = trained(setup)
    run = Run(setup, tmp_path)
    session = asyncio.run(play(run))
    assert same_adapters(final(run), outcomes[-1].state)
    for name, value in outcomes[-1].state.server.optimizer.items():
        assert torch.equal(final(run).server.optimizer[name], value)
    for number, outcome in enumerate(outcomes, start=1):
        expected = outcome.ledger.bytes_by_payload()
        expected.pop("model", None)
        # on the air once for all who hear it; a link each over a network
        expected["adapter_down"] *= DEVICES
        counted = session.tally.of(number)
        assert counted.pop("overhead") > 0
        assert counted == expected
    assert replayed(run).same(final_adapters(run))
