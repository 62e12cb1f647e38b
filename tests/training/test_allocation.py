"""Shares of the bandwidth in training change seconds, never tensors, and follow the channel."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from cutlayer.jobs.prepare import Job, prepare
from cutlayer.jobs.train import start
from cutlayer.report.run_figures import shares_vary
from cutlayer.report.run_reader import read_record
from cutlayer.training.expected import expected_round, initial_state
from cutlayer.training.round import Round, RoundOutcome

Folders = tuple[Path, Path]
PLANNERS = ("even", "random", "static", "two-timescale")
# narrow, so that sending takes most of a round, as it does where shares matter
BAND_HZ = 1e5


def _job(folders: Folders, planner: str, channel: dict[str, object], **sections: object) -> Job:
    config = tiny.config(*folders, planner=planner, channel=channel, **sections)
    return prepare(config)


def _outcomes(job: Job, rounds: int) -> list[RoundOutcome]:
    state, outcomes = initial_state(job.setup), []
    for _ in range(rounds):
        outcomes.append(Round(job.setup, state).play())
        state = outcomes[-1].state
    return outcomes


def _seconds(outcomes: list[RoundOutcome]) -> float:
    return outcomes[-1].state.virtual_time_s


@pytest.fixture
def traces(tmp_path: Path) -> tuple[str, ...]:
    """A trace for each of three devices, of rates that differ by a factor of up to 20."""
    rng = np.random.default_rng(3)
    paths = [tmp_path / f"{device}.csv" for device in range(3)]
    for path in paths:
        rates = 1e4 * rng.uniform(1.0, 20.0, 40)
        lines = [f"{second},{rate:.0f}" for second, rate in enumerate(rates)]
        path.write_text("time_s,rate_bit_per_s\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return tuple(map(str, paths))


@pytest.mark.parametrize("channel", ["rayleigh", "traces"])
def test_two_time_scales_are_faster_and_train_the_same_bits(
    vision: Folders, traces: tuple[str, ...], channel: str
) -> None:
    fading = {"bandwidth_hz": BAND_HZ, "fading": "rayleigh"}
    section = {"name": "traces", "uplink": traces} if channel == "traces" else fading
    outcomes = {name: _outcomes(_job(vision, name, section), rounds=4) for name in PLANNERS}
    best, even = outcomes["two-timescale"], outcomes["even"]
    assert _seconds(best) < min(_seconds(outcomes[name]) for name in PLANNERS[:-1])
    for ours, theirs in zip(best, even, strict=True):
        if channel == "rayleigh":  # the same fades for both; a trace goes on with the clock
            assert ours.timeline.delay_s <= theirs.timeline.delay_s
        for other in outcomes.values():
            found = other[ours.state.round - 1].state
            assert torch.equal(found.device.row, ours.state.device.row)
            assert torch.equal(found.server.row, ours.state.server.row)
    assert {name: len({one.shares for one in some}) for name, some in outcomes.items()} == {
        "even": 1,
        "random": 4,
        "static": 1,
        "two-timescale": 4,
    }


@pytest.mark.parametrize(
    ("folders", "scheme"),
    [("vision", "sft"), ("vision", "sl"), ("vision", "fl-lora"), ("bert", "sft")],
)
def test_what_is_expected_of_a_round_is_what_it_takes(
    folders: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    """Without compression: computing to the last bit for images; bytes without the labels, the
    frames and the header of a packet."""
    job = _job(
        request.getfixturevalue(folders),
        "even",
        {"bandwidth_hz": BAND_HZ},
        scheme=scheme,
        codec="none",
        training={"local_steps": 1},
        devices={"memory_mib": None},
    )
    expected = expected_round(job.setup)
    (outcome,) = _outcomes(job, rounds=1)
    seen = outcome.state.observed
    np.testing.assert_allclose(seen.compute_s, expected.compute_s, rtol=1e-12)
    # at most 60 bytes a packet or label of 4 samples, three a round
    for name in ("uplink_bits", "downlink_bits"):
        ours, theirs = getattr(expected, name), getattr(seen, name)
        np.testing.assert_allclose(theirs, ours, rtol=0.02, atol=8 * 180)


def test_a_constant_channel_needs_no_second_time_scale(vision: Folders) -> None:
    """Nothing but labels and frames tells the rounds from what was expected: parts in 1000."""
    devices = {"count": 3, "uplink_snr_db": [5.0, 17.0, 25.0]}
    static, twice = (
        _outcomes(
            _job(vision, name, {"bandwidth_hz": BAND_HZ}, codec="none", devices=devices), rounds=2
        )
        for name in ("static", "two-timescale")
    )
    assert static[0].shares == twice[0].shares == static[1].shares
    np.testing.assert_allclose(twice[1].shares, static[1].shares, rtol=5e-3)
    assert static[0].shares[0] > 1.3 * static[0].shares[2]


@pytest.mark.parametrize("planner", ["even", "two-timescale"])
def test_the_record_and_the_report_show_shares_where_they_vary(
    vision: Folders, tmp_path: Path, planner: str
) -> None:
    config = tiny.config(*vision, planner=planner, channel={"fading": "rayleigh"})
    path = start(config, tmp_path).path
    records = tiny.read_lines(path / "rounds.jsonl")
    assert len(records) > 1
    assert all(sum(record["shares"]) == pytest.approx(1.0, abs=1e-9) for record in records[1:])  # type: ignore[arg-type]
    varies = planner == "two-timescale"
    assert shares_vary(read_record(path).trained) is varies
    page = (path / "report.html").read_text(encoding="utf-8")
    assert ("Bandwidth allocation" in page) is varies
    json.dumps(records)
