"""A server and devices on loopback with TLS, each device with what the trainer deals to it."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import tiny
import torch

from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.data.samples import Samples, TokenRow, write_arrays
from cutlayer.jobs.dataset import OwnData
from cutlayer.jobs.join import Joining, join
from cutlayer.net.identity.run_keys import RunKeys
from cutlayer.net.wire.link import in_place
from net.ends import enrolled

PATIENCE_S = 60.0
COMMAND = "from cutlayer.cli.main import main; raise SystemExit(main())"


def names(count: int) -> tuple[str, ...]:
    return tuple(f"pi-{number}" for number in range(count))


def own_images(
    folder: Path, samples: Samples, chosen: np.ndarray, classes: tuple[str, ...]
) -> Path:
    """These samples, in this order, as a device may have them."""
    folder.mkdir(parents=True)
    images = np.stack([np.asarray(samples.read(int(index))) for index in chosen])
    split = (images, samples.labels[chosen])
    write_arrays(folder, split, split, classes)
    return folder


def own_reviews(
    folder: Path, samples: Samples, chosen: np.ndarray, classes: tuple[str, ...]
) -> Path:
    """These texts and their labels, in this order, as a table."""
    folder.mkdir(parents=True)
    rows = (f"{samples.read(int(at))},{classes[int(samples.labels[at])]}" for at in chosen)
    (folder / "train.csv").write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    return folder


def own_documents(folder: Path, samples: Samples, chosen: np.ndarray) -> Path:
    """These blocks of the tiny tokenizer's words, in this order, each a document that makes one
    with the separator at its end."""
    folder.mkdir(parents=True)
    for number, at in enumerate(chosen):
        row = samples.read(int(at))
        assert isinstance(row, TokenRow)
        *words, separator = row.ids.tolist()
        assert separator < tiny.FIRST_WORD <= min(words), "a block is a document"
        text = " ".join(tiny.WORDS[int(word) - tiny.FIRST_WORD] for word in words)
        (folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    return folder


def joining(folder: Path, keys: RunKeys, number: int, port: int, data: Path) -> Joining:
    name = f"pi-{number}"
    return Joining(
        address=f"127.0.0.1:{port}",
        keys=enrolled(keys, name),
        own=OwnData(data),
        state=folder / f"{name}.safetensors",
        cache=folder / f"cache-{name}",
        patience_s=PATIENCE_S,
        threads=1,
        device=torch.device("cpu"),
        jitter=lambda: 0.0,
    )


async def take_part(one: Joining) -> None:
    await join(one, in_place)


class Process:
    """A `cutlayer` command in a process of its own, and what it logs."""

    def __init__(self, folder: Path, name: str, *words: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *words],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "CUTLAYER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
            )

    async def says(self, words: str) -> re.Match[str]:
        """The first match in the log, once it is there."""
        async with asyncio.timeout(PATIENCE_S):
            while (found := re.search(words, self.text())) is None:
                assert self.popen.poll() is None, self.text()
                await asyncio.sleep(0.02)
        return found

    async def ends(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(PATIENCE_S):
            while self.popen.poll() is None:
                await asyncio.sleep(0.02)
        return int(self.popen.returncode)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


def write_config(path: Path, config: Config) -> Path:
    path.write_text(config_yaml(config), encoding="utf-8")
    return path
