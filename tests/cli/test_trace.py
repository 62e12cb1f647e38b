"""`cutlayer trace`: a round of a real run becomes the file that Perfetto reads."""

import json
from pathlib import Path

import pytest
import tiny

from cutlayer.cli.main import main
from cutlayer.jobs.train import start
from cutlayer.rounds.result import _Track


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds with two micro-batches under way."""
    root = tmp_path_factory.mktemp("trace")
    config = tiny.config(
        tiny.vision_model(root / "model"),
        tiny.images(root / "images"),
        scheme={"name": "sft-overlap"},
        training={"micro_batches": 2},
    )
    return start(config, root / "runs").path


@pytest.mark.parametrize("number", [1, 2])
def test_the_boxes_of_devices_are_the_steps_of_the_round(
    number: int, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.json"
    assert main(["trace", str(run), "--round", str(number), "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    steps = [line for line in tiny.read_lines(run / "trace.jsonl") if line["round"] == number]
    records = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    boxes = [r for r in records if r["ph"] == "X" and r["pid"] == _Track.DEVICES]
    assert [(b["name"], b["ts"], b["args"]["micro_batch"]) for b in boxes] == [
        (step["phase"], step["start_s"] * 1e6, step["micro_batch"])  # type: ignore[operator]
        for step in steps
    ]
    assert {b["args"]["micro_batch"] for b in boxes} == {0, 1, None}
    names = {r["args"]["name"] for r in records if r["name"] == "thread_name"}
    assert {"device 0", "device 0, micro-batch 1", "uplink 0", "server 0"} <= names


def test_the_last_round_goes_beside_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'round-2.json'}\n"
    assert json.loads((run / "round-2.json").read_text(encoding="utf-8"))["traceEvents"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "of which run?"),
        (["nowhere"], "nowhere/rounds.jsonl: missing"),
        (["RUN", "--round", "3"], "has rounds 1 to 2"),
        (["RUN", "--round", "0"], "has rounds 1 to 2"),
        (["RUN", "--round", "x"], "invalid int value"),
        (["RUN", "--output", "no/where"], "no/where: No such file"),
    ],
)
def test_a_mistake_gets_one_line(
    words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *(str(run) if word == "RUN" else word for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
