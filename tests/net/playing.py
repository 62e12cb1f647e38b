"""A run under a schedule of faults: whoever was killed is started again from its disk.

Time is the run's own: a second is eight turns of the event loop. Nothing sleeps.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tiny

from cutlayer.errors import RunError
from cutlayer.jobs.prepare import prepare
from cutlayer.net.server.driver import ALONE, Save, ServerDriver
from cutlayer.net.server.events import Tick
from cutlayer.net.wire.link import Compute, Link, LinkClosed, in_place
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.training.state import Setup
from net.chaos import BrokenLink, Chaos, GoneError, KilledError
from net.harness import Run, Site
from net.recompute import Presence, Steps, absent, final, presence, relived, replayed, steps
from net.schedules import Fault, Kind, Schedule

DEVICES = 3
ROUNDS = 2
# what comes of a device that goes away where all are needed
GIVEN_UP = "server gives up, and is resumed"
_TURNS_A_SECOND = 8


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to. `equal`: the adapters are those of the journals, and those of a run
    in which nothing breaks and the same devices are away; where there are batches, those of both
    ends' workers in the journals' passes."""

    schedule: Schedule
    struck: Counter[str]
    steps: Steps
    rounds: tuple[Presence, ...]
    equal: bool

    @property
    def missed(self) -> int:
        """How often a round closed without a device."""
        return sum(DEVICES - len(present.made) for present in self.rounds)

    @property
    def calm(self) -> bool:
        """Whether every device made every round, and began none of them again."""
        whole = Presence(tuple(range(DEVICES)), frozenset())
        return all(present == whole for present in self.rounds)

    @property
    def right(self) -> bool:
        """Whether all is as it must be: see `Kind` for what a schedule may cost."""
        costs = self.schedule.kind in (Kind.LATE, Kind.FORGETS)
        return self.equal and self.steps.lost == self.steps.doubled == 0 and (costs or self.calm)


def make_setup(model: Path, images: Path, device_part: object = "trained") -> Setup:
    """Three devices, and codecs that remember: two ends that drift apart are found out."""
    training = {"rounds": ROUNDS, "local_steps": 2, "batch_size": 4, "micro_batches": 2}
    config = tiny.config(
        model,
        images,
        codec="best",
        adapter_codec={"name": "best", "target_bits_up": 0.5, "target_bits_down": 1.0},
        training=training,
        devices={"count": DEVICES},
        device_part=device_part,
    )
    return prepare(config).setup


def played(setup: Setup, folder: Path, schedule: Schedule, calm: "Calm") -> Outcome:
    """Play a schedule to its end."""
    run = Run(
        setup,
        folder,
        ROUNDS,
        quorum=schedule.quorum,
        deadline_s=schedule.deadline_s,
        give_up_s=schedule.give_up_s,
        batching=ServerBatching(ServerBatch.ARRIVALS) if schedule.batches else ALONE,
    )
    chaos = Chaos(schedule, run)
    asyncio.run(guarded(_play(run, schedule, chaos)))
    return outcome_of(run, schedule, chaos.struck, calm)


def outcome_of(run: Run, schedule: Schedule, struck: Counter[str], calm: "Calm") -> Outcome:
    """What a run that has ended came to, by its journals and its last checkpoint."""
    rounds, ended = presence(run), final(run)
    # who shared a pass differs from run to run, and with it the last bits
    other = relived(run) if schedule.batches else calm(run, rounds)
    equal = ended.same(replayed(run)) and ended.same(other)
    return Outcome(schedule, struck, steps(run), rounds, equal)


class Calm:
    """Runs in which nothing breaks, each computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Presence, ...], Any] = {}

    def __call__(self, run: Run, rounds: tuple[Presence, ...]) -> Any:
        """The adapters that a run of these rounds ends with."""
        if rounds not in self._known:
            self._known[rounds] = absent(run, rounds)
        return self._known[rounds]


async def guarded(work: Awaitable[None]) -> None:
    """A run that hangs is a failure, not a wait."""
    async with asyncio.timeout(120):
        await work


async def keep_serving(
    site: Site,
    compute: Compute = in_place,
    save: Save | None = None,
    passed: Callable[[float], float] = lambda seconds: seconds,
    between: Callable[[], None] = lambda: None,
    stopped: Callable[[RunError], None] | None = None,
) -> None:
    """A server that is started again whenever it was killed, or `stopped` by an error that somebody
    has mended.

    `passed`: what its clock makes of a second; `between`: called between events.
    """
    while True:
        try:
            _, site.server = site.run.server(compute, save)
            # those who did not hear of the end are told when they dial
            return await _serve(site.server, passed, between)
        except KilledError as killed:
            await site.hang_up(killed.silent)
        except RunError as error:
            if stopped is None:
                raise
            stopped(error)
            await site.hang_up()


async def _serve(
    server: ServerDriver, passed: Callable[[float], float], between: Callable[[], None]
) -> None:
    """Let time pass until the run ends, or what ends it is raised."""
    ended = asyncio.create_task(server.finished())
    try:
        while not ended.done():
            for _ in range(_TURNS_A_SECOND):
                await asyncio.sleep(0)
            between()
            with suppress(LinkClosed, KilledError, RunError):  # `ended` raises the same
                await server.handle(Tick(passed(1.0)))
        ended.result()
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)


async def keep_taking_part(
    site: Site,
    number: int,
    compute: Compute = in_place,
    wrap: Callable[[Link], Link] = lambda link: link,
    killed: Callable[[], None] = lambda: None,
    gone: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """A device that is started again whenever it was killed, or its disk was full.

    `killed`: what happens to it meanwhile. `gone`: waits for a device that went away, and says
    whether it comes back.
    """
    while True:
        try:
            await site.run.device(number, compute).take_part(partial(site.dial, number, wrap))
            return
        except GoneError:
            if gone is None or not await gone():
                return
        except KilledError:
            killed()
        except RunError as error:
            _check_full(error)


async def _play(run: Run, schedule: Schedule, chaos: Chaos) -> None:
    site, given_up = Site(run), asyncio.Event()

    def stopped(error: RunError) -> None:
        if "adapters that it needs" in str(error):
            chaos.struck[GIVEN_UP] += 1
            given_up.set()
        else:
            _check_full(error)

    async def gone() -> bool:
        if schedule.kind is Kind.LATE:
            return False
        given_up.clear()
        await given_up.wait()
        return True

    def killed(number: int) -> None:
        if chaos.strikes(Fault.DEVICE_FORGETS) is not None:
            run.state_path(number).unlink(missing_ok=True)

    await asyncio.gather(
        keep_serving(
            site,
            chaos.server_compute,
            chaos.save,
            chaos.passed,
            lambda: chaos.kill(Fault.SERVER_BETWEEN),
            stopped,
        ),
        *(
            keep_taking_part(
                site,
                number,
                partial(chaos.device_compute, run.state_path(number)),
                lambda link: BrokenLink(link, chaos),
                partial(killed, number),
                gone,
            )
            for number in range(len(run.setup.devices))
        ),
    )
    await site.hang_up()


def _check_full(error: RunError) -> None:
    """It says that the disk is full, and what to do."""
    assert "cannot write" in str(error) and "free some space" in str(error), error
