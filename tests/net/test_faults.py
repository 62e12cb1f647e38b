"""Links that break, devices that vanish, disks that are full, a server that is killed: what is
trained stays trained.

`PYTHONPATH=tests python benchmarks/disturbed.py faults` plays as many schedules as one likes and
prints what happened; the last tests here let it play 200, and 10 over real processes.
"""

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cutlayer.net.server.journal import Entry, Journal
from cutlayer.net.wire.frames import journal_limits
from cutlayer.net.wire.messages import Activation, Adapter
from cutlayer.training.state import Setup
from net.harness import Run, play
from net.playing import DEVICES, GIVEN_UP, ROUNDS, Calm, make_setup, played
from net.recompute import final, replayed, steps
from net.schedules import Fault, Kind, Planned, Schedule, alone, draw, seen

ROOT = Path(__file__).parents[2]
# of the faults that a schedule of its own is for
COSTLY = {Fault.DEVICE_GONE, Fault.DEVICE_FORGETS}
# of those to which a run comes a few times only
RARE = {
    Fault.BEFORE_CHECKPOINT,
    Fault.AFTER_CHECKPOINT,
    Fault.CHECKPOINT_FULL,
    Fault.SWAPPED,
    Fault.SERVER_BETWEEN,
    Fault.CLOCK_FORWARD,
    Fault.CLOCK_BACK,
}


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    return make_setup(*vision)


@pytest.fixture(scope="module")
def calm() -> Calm:
    return Calm()


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in COSTLY])
def test_a_fault_by_itself_costs_nothing(
    fault: Fault, setup: Setup, calm: Calm, tmp_path: Path
) -> None:
    """In the midst of a run in which all else goes well."""
    schedule = alone(Kind.KEEPS, (Planned(fault, 1 if fault in RARE else 17, 0.4),))
    outcome = played(setup, tmp_path, schedule, calm)
    assert outcome.struck.total() == 1
    assert outcome.right, outcome
    assert outcome.steps.trained == DEVICES * ROUNDS * 2 * 2


@pytest.mark.parametrize(
    "fault",
    [Fault.SERVER_BEFORE, Fault.SERVER_TORN, Fault.JOURNAL_FULL, Fault.CUT_WITHIN, Fault.TWICE],
)
def test_a_fault_within_a_batch_costs_nothing(
    fault: Fault, setup: Setup, calm: Calm, tmp_path: Path
) -> None:
    # devices that always come together make 8 passes and writes of all their 24 mini-batches
    schedule = alone(Kind.KEEPS, (Planned(fault, 6, 0.4),))
    outcome = played(setup, tmp_path, replace(schedule, batches=True), calm)
    assert outcome.struck.total() == 1
    assert outcome.right, outcome


@pytest.fixture(scope="module", params=["frozen", "warm"])
def frozen(request: pytest.FixtureRequest, vision: tuple[Path, Path]) -> tuple[Setup, Calm]:
    """Where devices wait for no answer: from the first round on, or from the second."""
    return make_setup(*vision, request.param), Calm()


@pytest.mark.parametrize("after", [9, 23])
@pytest.mark.parametrize(
    "fault",
    [
        Fault.DEVICE_BEFORE,
        Fault.DEVICE_AFTER,
        Fault.DEVICE_AT_FRAME,
        Fault.SERVER_BEFORE,
        Fault.SERVER_AFTER,
        Fault.SERVER_TORN,
        Fault.CUT,
        Fault.CUT_WITHIN,
        Fault.TWICE,
    ],
)
def test_a_fault_costs_nothing_where_several_are_on_their_way(
    fault: Fault, after: int, frozen: tuple[Setup, Calm], tmp_path: Path
) -> None:
    outcome = played(
        frozen[0], tmp_path, alone(Kind.KEEPS, (Planned(fault, after, 0.4),)), frozen[1]
    )
    assert outcome.struck.total() == 1
    assert outcome.right, outcome
    assert outcome.steps.trained == DEVICES * ROUNDS * 2 * 2


def test_a_device_that_lost_its_disk_gets_the_adapter_that_is_frozen(
    frozen: tuple[Setup, Calm], tmp_path: Path
) -> None:
    planned = (Planned(Fault.DEVICE_BEFORE, 40, 0.0), Planned(Fault.DEVICE_FORGETS, 1, 0.0))
    outcome = played(frozen[0], tmp_path, alone(Kind.FORGETS, planned), frozen[1])
    assert outcome.right, outcome


@pytest.mark.parametrize("after", [5, 30])
def test_a_round_closes_without_a_device_that_never_returns(
    after: int, setup: Setup, calm: Calm, tmp_path: Path
) -> None:
    """In the round in which it leaves, and in the next; the others' weights are renormalised."""
    planned = (Planned(Fault.DEVICE_GONE, after, 0.0),)
    schedule = Schedule(0, Kind.LATE, DEVICES - 1, 40.0, None, planned)
    outcome = played(setup, tmp_path, schedule, calm)
    assert outcome.right, outcome
    assert outcome.missed == ROUNDS
    (gone,) = set(range(DEVICES)) - set(outcome.rounds[0].made)
    assert all(gone not in present.made for present in outcome.rounds)


def test_a_server_that_gave_up_goes_on_when_the_device_is_back(
    setup: Setup, calm: Calm, tmp_path: Path
) -> None:
    planned = (Planned(Fault.DEVICE_GONE, 20, 0.0),)
    schedule = Schedule(0, Kind.GIVES_UP, DEVICES, 20.0, 100.0, planned)
    outcome = played(setup, tmp_path, schedule, calm)
    assert outcome.struck[GIVEN_UP] >= 1
    assert outcome.right and outcome.calm, outcome


def test_a_device_that_lost_its_disk_begins_its_round_again(
    setup: Setup, calm: Calm, tmp_path: Path
) -> None:
    planned = (Planned(Fault.DEVICE_BEFORE, 40, 0.0), Planned(Fault.DEVICE_FORGETS, 1, 0.0))
    outcome = played(setup, tmp_path, alone(Kind.FORGETS, planned), calm)
    assert outcome.right, outcome
    assert [len(present.fresh) for present in outcome.rounds].count(1) == 1


def test_what_a_journal_lacks_or_has_twice_is_found_out(setup: Setup, tmp_path: Path) -> None:
    """The checks of this suite can fail: one micro-batch less or more, or another adapter."""
    run = Run(setup, tmp_path, ROUNDS)
    asyncio.run(play(run))
    entries, whole = run.archive.entries(ROUNDS), final(run)
    assert replayed(run).same(whole)
    at = next(n for n, one in enumerate(entries) if isinstance(one.message, Activation))
    _write(run, [*entries[:at], *entries[at + 1 :]])
    assert (steps(run).lost, steps(run).doubled) == (1, 0)
    assert not replayed(run).same(whole)
    _write(run, [*entries[:at], entries[at], *entries[at:]])
    assert (steps(run).lost, steps(run).doubled) == (0, 1)
    assert not replayed(run).same(whole)
    uploads = [n for n, one in enumerate(entries) if isinstance(one.message, Adapter)]
    first, second = uploads[:2]
    swapped = list(entries)
    swapped[first] = Entry(entries[first].device, entries[second].message)
    _write(run, swapped)
    assert not replayed(run).same(whole)
    _write(run, entries)
    assert replayed(run).same(whole)


def _write(run: Run, entries: list[Entry]) -> None:
    """Another journal of the last round."""
    archive = run.folder / "archive"
    (tmp,) = archive.glob(f"*{ROUNDS}.journal")
    tmp.unlink()
    run.archive = Journal(archive, journal_limits(run.bounds))
    run.archive.append(ROUNDS, entries)


def test_a_schedule_is_its_seeds() -> None:
    assert draw(7) == draw(7)
    assert str(draw(7)).startswith("schedule 7 (late; quorum 2, deadline")
    drawn = {planned.fault for seed in range(200) for planned in draw(seed).planned}
    assert drawn == set(Fault)
    assert len({name for fault in Fault for name in seen(fault)}) > len(Fault)


@pytest.mark.slow("minutes of runs that are broken in every way there is")
@pytest.mark.parametrize(
    ("schedules", "processes"),
    [
        pytest.param(200, 0, id="memory"),
        pytest.param(0, 10, id="processes", marks=pytest.mark.promise),
    ],
)
def test_many_schedules_of_faults(schedules: int, processes: int) -> None:
    """In a process of its own, where no types are checked: seven times as fast."""
    counts = ("--schedules", str(schedules), "--processes", str(processes))
    done = subprocess.run(
        [sys.executable, "benchmarks/disturbed.py", "faults", *counts],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = schedules + processes
    assert f"{count} of {count}" in done.stdout
