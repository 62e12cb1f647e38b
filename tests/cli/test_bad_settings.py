"""What is typed wrongly: exit code 2 and one line, soon, whatever the command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cutlayer.cli.main import main

ROOT = Path(__file__).parents[2]
TRAIN = [
    ["--codec", "paper", "--codec.target-bits-up", "0.5"],
    ["--codec", "stages", "--codec.up.quantise.bits", "99"],
    ["--codec", "stages", "--codec.up.quantize", "int"],
    ["--codec", "stages"],
    ["--codec", "stages", "--codec.up.quantise", "dead-zone"],
    ["--codec", "stages", "--codec.up", "{quantise: {name: dead-zone, step: 1, target_bits: 2}}"],
    ["--codec.target-cosine-up", "1.5"],
    ["--codec", "x" * 10_000],
    ["--codec", "{" * 10_000],
    ["--channel", "traces", "--channel.uplink", "a.csv", "--channel.cell", "umi"],
    ["--channel", "traces", "--channel.downlink", "a"],
    ["--channel.fading", "{name: rician, kdb: 3}"],
    ["--channel.bandwidth-hz", "1e300"],
    ["--channel.bandwidth-hz", "nan"],
    ["--channel.cell", "umi", "--channel.cell.nearest-m", "300"],
    ["--devices.uplink-snr-db", "1e9"],
    ["--devices.uplink-snr-db", "[1,2]"],
    ["--devices.efficiency", "0.5"],
    ["--devices.count", "2000000"],
    ["--devices.count", "5000"],
    ["--devices.preset", "x" * 500],
    ["--devices.flops-per-s", "[" * 10_000],
    ["--devices.memory-mib", "0"],
    ["--adapter.rank", "5000"],
    ["--partition.alpha", "1e308"],
    ["--optimizer.learning-rate", "inf"],
    ["--training.rounds", "1" * 5000],
    ["--training.ronds", "3"],
    ["--training.micro-batches", "17"],
    ["--training.local-steps", "null"],
    ["--model.cut", "99"],
    ["--model", "no such"],
    ["--model", ""],
    ["--data.name", "a\udcff"],
    ["--data.task", "video"],
    ["--output", "/proc/x"],
    ["--output", "/dev/null/x"],
    ["--codec", "none", "--codec.name", "best"],
    ["--codec.name", "best", "--codec", "none"],
    ["--net.patience-s", "2"],
    ["--planner.least-cut", "2"],
    ["--planner.fix", "cut"],
    ["--devices.power-w", "5"],
    ["--server.price-per-hour", "2"],
    ["--scheme", "fl-full", "--devices.base", "bfloat16"],
    ["--seed", "-1"],
    ["--threads", "0"],
    ["--" + "y" * 900],
    ["/dev/zero"],
    ["/nowhere"],
]
OTHERS = [
    ["plan", "--output", "/dev/full"],
    ["plan", "--planner.profile", "/dev/null"],
    ["plan", "--planner.profile", "."],
    ["plan", "--model.cut", "99"],
    ["plan", "--codec", "stages"],
    ["plan", "--fixed", "--model.cut", "12"],
    ["plan", "--planner", "fixed", "--planner.shares", "[1]"],
    ["plan", "--net.quorum", "1"],
    ["plan", "--devices.count", "1000000"],
    ["plan", "--training.local-steps", "1000000"],
    ["plan", "--model", "vit-b16", "--data.image-size", "224", "--planner.profile", "PROFILE"],
    ["serve", "--model.cut", "99"],
    ["lab", "--codec.levels", "1"],
    ["profile", "--codec", "paper"],
    ["profile", "--output", "/"],
    ["profile", "--seeds", "x" * 300],
    ["compare", "--schemes", "sft,sl", "--training.in-flight", "2"],
    ["compare", "--schemes", "sft-uncompressed,sl", "--codec", "paper"],
    ["codec", "bench", "--model.cut", "0"],
    ["codec", "roundtrip", "--packets", "0"],
    ["x" * 1000],
]
EVERY = [*(["train", *words] for words in TRAIN), *OTHERS]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder with the packaged profile at hand, and no hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def _words(words: list[str]) -> list[str]:
    import cutlayer.planner.profiles as profiles

    (packaged,) = Path(next(iter(profiles.__path__))).glob("*.json")
    return [str(packaged) if word == "PROFILE" else word for word in words]


@pytest.mark.parametrize("words", EVERY, ids=lambda words: " ".join(words)[:60])
def test_one_line_says_what_is_wrong(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_words(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    if words[0] == "serve":  # a service's lines are JSON
        line = f"cutlayer: {json.loads(line)['message']}"
    assert line.startswith("cutlayer: ") and len(line) < 600
    assert not list(Path().iterdir())


def test_none_of_them_imports_torch_or_depends_on_a_hash() -> None:
    script = (
        "import sys\n"
        "from cutlayer.cli.main import main\n"
        "for words in eval(sys.argv[1]):\n"
        "    assert main(words) == 2, words\n"
        "assert 'torch' not in sys.modules\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script, ascii([_words(words) for words in EVERY])],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")},
            check=True,
        ).stderr
        for seed in ("1", "2")
    }
    # of services' lines without the time
    assert len({re.sub(r'"time": "[^"]*"', "", text) for text in told}) == 1


def test_an_option_may_be_written_as_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--devices.memory_mib", "5", "--training.local_steps=3", "--data.name=a_b"]
    assert main(["train", *words, "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "memory_mib: 5.0" in shown and "local_steps: 3" in shown and "name: a_b" in shown


def test_an_option_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--seed", "1", "--seed", "2", "--print-config"]) == 2
    assert "--seed: given twice, 1 and 2: leave out one" in capsys.readouterr().err
    assert main(["train", "--seed", "1", "--seed=1", "--print-config"]) == 0
