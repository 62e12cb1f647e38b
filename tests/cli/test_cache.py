"""`cutlayer cache`: what a run keeps of each device, and to forget it."""

from pathlib import Path

import pytest
import tiny

from cutlayer.cli.main import main
from cutlayer.jobs.train import resume, start
from cutlayer.training.activation_cache import FILE


def test_what_a_run_keeps_is_listed_and_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device whose samples are forgotten sends them again, if the run goes on."""
    config = tiny.config(
        tiny.vision_model(tmp_path / "model"),
        tiny.images(tmp_path / "images", train=24, test=8),
        scheme="sft-cached",
        partition="iid",
        devices={"count": 2},
        training={"rounds": 2, "local_steps": 3},
    )
    run = start(config, tmp_path / "runs").path
    table = tiny.read_lines(run / "rounds.jsonl")
    assert [line["cache"]["misses"] for line in table[1:]] == [24, 0]
    assert main(["cache", str(run)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("device 0: 12 samples, ")
    assert main(["cache", str(run), "--forget", "0"]) == 0
    assert capsys.readouterr().out.splitlines() == ["device 0: 12 samples forgotten", second]
    resume(run, changes={"training.rounds": "3"})
    assert tiny.read_lines(run / "rounds.jsonl")[-1]["cache"]["misses"] == 12
    assert main(["cache", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    (run / FILE).unlink()
    assert main(["cache", str(run)]) == 2
    assert "has no cached activations" in capsys.readouterr().err
    assert main(["cache"]) == 2
    assert "of which run?" in capsys.readouterr().err
