"""docs/network.md's own commands, in their order, from the keys to a run that has ended.

For pictures, for texts and for a language, on tiny stand-ins under the names of the page's models
and data. Only addresses, folders and the number of steps are others than the page's.
"""

import json
import re
import shlex
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny

from cutlayer.cli.main import main
from cutlayer.config.read import read_config
from cutlayer.data.assets.catalogue import CATALOGUE
from cutlayer.data.samples import write_arrays
from cutlayer.jobs.workload import make_workload
from cutlayer.rounds.memory import device_memory
from cutlayer.units import MIB

PAGE = (Path(__file__).parents[2] / "docs" / "network.md").read_text(encoding="utf-8")
WALK = PAGE[: PAGE.index("## What happens when something breaks")]
DEVICES = 3

SERVER = "192.168.1.10:7700"


@dataclass(frozen=True)
class Run:
    """What the page shows of one run: its configuration, and what is typed on the first device."""

    name: str
    yaml: str
    export: list[str]
    join: list[str]


def _runs() -> Iterator[Run]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", WALK, re.M | re.S)
    lines = [line for language, code in blocks if language != "yaml" for line in code.splitlines()]
    of_devices = [shlex.split(line) for line in lines if re.match("cutlayer (assets|join)", line)]
    texts = [code for language, code in blocks if language == "yaml"]
    for name, yaml, export, join in zip(
        ("pictures", "texts", "language"), texts, of_devices[::2], of_devices[1::2], strict=True
    ):
        yield Run(name, yaml, export, join)


def _cached(cache: Path, kind: str, name: str) -> Path:
    folder = cache / kind / name
    folder.mkdir(parents=True)
    (folder / "asset.json").write_text(json.dumps({"layout": CATALOGUE[name].layout}))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the page gets by name, tiny: with a class that no folder can be called."""
    cache = tmp_path_factory.mktemp("cache")
    tiny.vision_model(_cached(cache, "models", "dinov2-small"), blocks=6)
    tiny.text_model(_cached(cache, "models", "minilm"), "bert")
    tiny.text_model(_cached(cache, "models", "smollm2"), "llama", blocks=6)
    labels = np.arange(60) // 3 % 3  # in each third of every
    pixels = (80 * labels[:, None, None] + np.zeros((60, 28, 28))).astype(np.uint8)
    split = (pixels, labels)
    names = ("T-shirt/top", "Trouser", "Ankle boot")
    write_arrays(_cached(cache, "data", "fashion-mnist"), split, split, names)
    for name, length in (("wordnet-glosses", 6), ("brown", 300)):
        folder = _cached(cache, "data", name)
        for file in ("train", "test"):
            rows = [
                {"text": " ".join(tiny.WORDS[(at + 3 * n) % 10] for n in range(length)),
                 "label": ("artifact", "animal")[at // 3 % 2]}
                for at in range(60)
            ]  # fmt: skip
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cache


def _shorter(yaml: str) -> str:
    """The page's configuration with one round of two steps."""
    shorter, found = re.subn(r"rounds: \d+, local_steps: \d+", "rounds: 1, local_steps: 2", yaml)
    assert found == 1
    return shorter


def _tokens(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the page's commands about keys print, of which there is one for each device."""
    for line in WALK.splitlines():
        if line.startswith("cutlayer keys"):
            assert main(shlex.split(line)[1:]) == 0
    return re.findall(r"^cutlayer1\.\S+$", capsys.readouterr().out, re.M)


def _typed(line: list[str], **instead: str) -> list[str]:
    """The words behind `cutlayer`, with those that differ between machines put in their place."""
    assert line[0] == "cutlayer" and set(instead) <= set(line)
    return [instead.get(word, word) for word in line[1:]]


@pytest.fixture
def port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = str(server.getsockname()[1])
    yield f"127.0.0.1:{free}"


@pytest.mark.slow("four processes' work: a server and three devices, three times")
@pytest.mark.promise
@pytest.mark.parametrize("run", list(_runs()), ids=lambda run: run.name)
def test_the_page_is_followed(
    run: Run,
    cache: Path,
    port: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    tokens, codes = _tokens(capsys), dict[int, int]()
    assert len(tokens) == DEVICES
    Path("run.yaml").write_text(_shorter(run.yaml), encoding="utf-8")

    def join(number: int) -> None:
        words = _typed(run.join, **{"-": tokens[number], SERVER: port, run.export[4]: own[number]})
        own_place = ["--identity", f"identity-{number}", "--threads", "1", "--patience", "120"]
        codes[number] = main([*words, *own_place])

    own = [f"own-{number}" for number in range(DEVICES)]
    for number, folder in enumerate(own):
        part = f"{number + 1}/{DEVICES}"
        assert main(_typed(run.export, **{"1/3": part, run.export[4]: folder})) == 0
    devices = [threading.Thread(target=join, args=(number,)) for number in range(DEVICES)]
    for device in devices:
        device.start()
    # a device that fails fails the test, and does not hang it
    limits = ["--net.deadline-s", "120", "--net.give-up-s", "180", "--threads", "1"]
    serve = ["serve", "run.yaml", "--listen", port, "--operators", "127.0.0.1:0", *limits]
    assert main(serve) == 0, capsys.readouterr().err
    for device in devices:
        device.join()
    assert codes == dict.fromkeys(range(DEVICES), 0), capsys.readouterr().err
    (directory,) = Path("runs").iterdir()
    assert (directory / "adapter" / "adapter_model.safetensors").exists()
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    assert min(summary["samples_per_device"]) > 0 and len(summary["samples_per_device"]) == DEVICES


@pytest.mark.parametrize("run", list(_runs()), ids=lambda run: run.name)
def test_the_pages_real_models_fit_its_devices(run: Run, tmp_path: Path) -> None:
    """The stand-ins fit anywhere."""
    (tmp_path / "run.yaml").write_text(run.yaml, encoding="utf-8")
    config = read_config(tmp_path / "run.yaml")
    workload = make_workload(config)
    need = device_memory(workload.model, config.model.cut, workload.batch, optimizer_slots=2)
    assert config.devices.memory_mib is not None
    assert need.total < config.devices.memory_mib * MIB


def test_the_pages_example_has_a_class_that_is_no_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    (pictures, *_) = _runs()
    assert main(pictures.export[1:]) == 0
    folders = {path.name for path in Path(pictures.export[4]).iterdir()}
    assert folders == {"T-shirt_top", "Trouser", "Ankle boot"}
    assert "`T-shirt_top`" in PAGE
