"""What a server writes of a round: the record and the checkpoint have one clock."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny

from cutlayer.errors import RunError
from cutlayer.jobs.network import Recorder, kept_samples
from cutlayer.jobs.prepare import prepare
from cutlayer.net.server.driver import recover
from cutlayer.net.server.session import ServerSession
from cutlayer.net.server.timing import MeasuredRound
from cutlayer.net.server.worker import ServerWorker
from cutlayer.training.evaluation import DeviceShare, share_of
from cutlayer.training.records import Silent, TrainedRound
from cutlayer.training.run import begin
from cutlayer.training.run_log import RunLog
from cutlayer.training.state import RunState
from net.ends import PATIENCE_S
from net.harness import Run, Site


def _full(state: RunState, measured: MeasuredRound | None) -> bool:
    raise RunError("no space left")


async def _stop_at_the_checkpoint(run: Run) -> None:
    """A server whose journal has the end of the first round, and nothing else has."""
    site = Site(run)
    _, site.server = run.server(save=_full)
    devices = [
        asyncio.create_task(run.device(n).take_part(partial(site.dial, n)))
        for n in range(len(run.setup.devices))
    ]
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(RunError, match="no space left"):
            await site.server.finished()
    for device in devices:
        device.cancel()
    await asyncio.gather(*devices, return_exceptions=True)
    await site.hang_up()


def test_a_round_that_nobody_saw_has_one_clock(vision: tuple[Path, Path], tmp_path: Path) -> None:
    """The server that goes through its journal did not see how long the round took."""
    job = prepare(tiny.config(*vision, codec="none"))
    run, names = Run(job.setup, tmp_path), job.prepared.data.class_names
    log = RunLog(run.directory, lambda state, best: None, Silent(), class_names=names)
    state = begin(run.setup, log, run.rounds)
    asyncio.run(_stop_at_the_checkpoint(run))
    worker = run.server_worker(state)
    session = ServerSession(run.plan(), worker.adapter)
    controller = run.controller(state)
    setup, clock = run.setup, time.monotonic
    recorder = Recorder(setup.training, setup.server, log, worker, session, clock)
    recover(session, worker, run.journal, controller, recorder.save)
    kept, record = run.directory.load(), run.directory.records()[-1]
    assert isinstance(record, TrainedRound)
    assert kept is not None and kept.round == record.round == 1
    assert record.virtual_time_s == record.delay_s == kept.virtual_time_s > 0
    assert worker.state.virtual_time_s == kept.virtual_time_s


def test_a_server_that_is_started_again_knows_what_devices_have_said(
    vision: tuple[Path, Path], tmp_path: Path
) -> None:
    """However late: what each device's score weighs, it says as a round ends."""
    setup = prepare(tiny.config(*vision, codec="none", aggregation="none")).setup
    run = Run(replace(setup, training=replace(setup.training, tells_labels=True)), tmp_path)
    devices = len(setup.devices)
    assert kept_samples(run.directory.path, devices) == (DeviceShare(0),) * devices
    said = tuple(map(share_of, setup.devices))
    assert all(share.labels for share in said)
    log = RunLog(run.directory, lambda state, best: None, Silent(), class_names=("a",) * 4)
    state = begin(run.setup, log, run.rounds)
    asyncio.run(_stop_at_the_checkpoint(run))
    worker = run.server_worker(state)
    session = ServerSession(run.plan(), worker.adapter, own=worker.own_adapters)
    recorder = Recorder(run.setup.training, setup.server, log, worker, session, time.monotonic)
    recover(session, worker, run.journal, run.controller(state), recorder.save)
    again = kept_samples(run.directory.path, devices)
    assert again == worker.shares == said
    known = ServerWorker(
        run.setup.training, setup.server, [2] * devices, run.bounds, worker.state, again
    )
    assert known.shares == said and known.samples == [share.samples for share in said]
    path = run.directory.path / "samples.json"
    for text, told in (("[]", "is of 0 devices, not of the run's 3"), ("{", "cannot be read")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RunError, match=told):
            kept_samples(run.directory.path, devices)
