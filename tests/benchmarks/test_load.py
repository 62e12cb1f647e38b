"""The load benchmark: its stand-ins fit the sessions; small, it runs and finds nothing wrong."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from net.memory_link import memory_links
from net.server.test_server_session import Table

from cutlayer.net.wire.link import Link

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(
    os.environ.get("CUTLAYER_TESTS") in ("typed", "all"),
    reason="stand-ins are of no class that the driver names",
)
def test_stand_ins_without_computations_play_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import load_steps

    sizes = load_steps.Sizes(
        activation=40, labels=4, gradient=30, adapter=64, samples=4, local_steps=2
    )
    plan = Table(devices=1).plan
    terms = replace(plan.terms[0], rounds=1000, micro_batches=1)
    plan = replace(plan, terms=(terms,), bounds=sizes.bounds)

    async def played() -> tuple[float, float]:
        rounds = load_steps.Rounds(plan, sizes, load_steps.NullJournal())
        device_end, server_end = memory_links("device-0", "server")

        links = iter([device_end])

        async def dial() -> Link:
            await asyncio.sleep(0)  # a closed link that is dialled for ever leaves time to others
            return next(links)

        tasks = [
            asyncio.create_task(rounds.driver.attend(0, server_end)),
            asyncio.create_task(load_steps.null_device(sizes).take_part(dial)),
        ]
        await rounds.first()
        seconds = await rounds.play(), await rounds.play()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await rounds.stop()
        return seconds

    assert min(asyncio.run(asyncio.wait_for(played(), 60))) > 0


@pytest.mark.slow("servers and two hundred frames of devices in processes")
def test_a_few_devices_play_without_errors(tmp_path: Path) -> None:
    found = tmp_path / "load.json"
    command = [sys.executable, str(BENCHMARKS / "load.py"), "--quick", "--json", str(found)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    what = json.loads(found.read_text(encoding="utf-8"))
    assert what["load"]["errors"] == []
    assert [point["round"] for point in what["load"]["points"]] == [1, 2, 3]
    assert all(point["resident_bytes"] > 0 for point in what["load"]["points"])
    names = [row["name"] for row in what["steps"]]
    assert names == ["gRPC, mutual TLS", "our link", "sessions", "sessions, journal"]
    assert what["steps"][0]["x"] == 1.0
