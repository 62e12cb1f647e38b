"""One device that sends what no training can have made: the others' run is theirs."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

from cutlayer.jobs.prepare import prepare
from cutlayer.net.device.driver import DeviceDriver, Ready
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.server.timing import MeasuredRound
from cutlayer.net.server.worker import MergeRule, ServerWorker
from cutlayer.net.wire.link import in_place
from cutlayer.net.wire.messages import Adapter, OwnSamples, Terms
from cutlayer.training.adapter_rows import pack_adapter
from cutlayer.training.state import RunState, Setup
from net.harness import Run, Site, final

HOSTILE, ROUNDS = 1, 3
ABSURD = {"1e30": 1e30, "-1e30": -1e30, "3": 3.0, "-0.5": -0.5}


class KilledError(Exception):
    """The server's end."""


class Poisoner(DeviceWorker):
    """A device's computation, that sends a value in the place of what it trained."""

    value = 0.0

    def adapter(self, round_number: int) -> Adapter:
        """As large as the true one, with its weight."""
        sent = super().adapter(round_number)
        row = self._device.part.adapted.initial_row(0)  # type: ignore[attr-defined]
        return Adapter(round_number, sent.weight, pack_adapter(torch.full_like(row, self.value)))


class GuardedRun(Run):
    """Whose server takes updates of ten times the median."""

    def server_worker(self, state: RunState) -> ServerWorker:
        """With a rule."""
        worker = super().server_worker(state)
        worker._rule = MergeRule(times_median=10.0)
        return worker


def driver_of(run: Run, number: int, value: float) -> DeviceDriver:
    """A device; the hostile one poisons every round."""
    honest = run.device(number)
    if number != HOSTILE:
        return honest

    def prepared(terms: Terms) -> Ready:
        side = run.setup.devices[HOSTILE]
        worker = Poisoner(run.setup.training, side)
        worker.value = value
        return Ready(terms, worker, run.bounds, "hostile", OwnSamples(side.samples, "a" * 16))

    return DeviceDriver(run.store(number), prepared, in_place, honest._watch, None)


async def attacked(run: Run, value: float, killed_in: int | None = None) -> None:
    """A run in which one device attacks. `killed_in`: the server dies when this round is merged and
    not saved, and everybody starts again from where the disk stands."""
    site, everyone = Site(run), range(len(run.setup.devices))

    def dies(state: RunState, measured: MeasuredRound | None) -> bool:
        if state.round == killed_in:
            raise KilledError
        return run.save(state, measured)

    _, site.server = run.server(save=dies)
    if killed_in is not None:
        tasks = [
            asyncio.create_task(driver_of(run, n, value).take_part(partial(site.dial, n)))
            for n in everyone
        ]
        while not any(call.done() for call in site.calls):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*site.calls, return_exceptions=True)
        assert any(isinstance(end, KilledError) for end in ends)
        await site.hang_up()
        assert final(run).round == killed_in - 1
        _, site.server = run.server()
    await asyncio.gather(
        *(driver_of(run, n, value).take_part(partial(site.dial, n)) for n in everyone)
    )
    await site.server.finished()
    await asyncio.gather(*site.calls)


@pytest.fixture(scope="module")
def setup(vision: tuple[Path, Path]) -> Setup:
    training = {"rounds": ROUNDS, "local_steps": 2}
    return prepare(tiny.config(*vision, codec="best", training=training)).setup


def test_whatever_it_sends_the_run_ends_with_what_the_others_trained(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = []
    for name, value in ABSURD.items():
        run = GuardedRun(setup, tmp_path / name, rounds=ROUNDS)
        asyncio.run(attacked(run, value))
        ends.append(final(run))
        assert run.journal.made(ROUNDS) == (0, 2)
        assert run.session.left_out == {HOSTILE: ROUNDS}
    assert {end.round for end in ends} == {ROUNDS}
    for end in ends:
        assert end.device.row.isfinite().all() and end.server.row.isfinite().all()
        assert torch.equal(end.device.row, ends[0].device.row)
        assert torch.equal(end.server.row, ends[0].server.row)
    named = [r for r in caplog.messages if r.startswith(f"device {HOSTILE}: its adapter of round")]
    assert len(named) == ROUNDS * len(ABSURD)


def test_a_server_that_is_killed_when_it_left_one_out_goes_on_the_same(
    setup: Setup, tmp_path: Path
) -> None:
    """From the round's journal, which says who was merged."""
    ends = []
    for killed_in in (None, 2):
        run = GuardedRun(setup, tmp_path / str(killed_in), rounds=ROUNDS)
        asyncio.run(attacked(run, 1e30, killed_in))
        ends.append(final(run))
    assert torch.equal(ends[0].device.row, ends[1].device.row)
    assert torch.equal(ends[0].server.row, ends[1].server.row)
