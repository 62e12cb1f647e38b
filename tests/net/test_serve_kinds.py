"""Runs between `cutlayer serve` and `cutlayer join` of every kind: data, codecs, bases, and whether
devices train."""

import asyncio
from pathlib import Path

import pytest
import tiny

from cutlayer.jobs.network import open_net
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import new_directory, start
from cutlayer.net.wire.link import in_place
from cutlayer.training.records import Silent
from net.devices import joining, names, own_documents, own_images, own_reviews, take_part
from net.ends import run_keys
from net.served import begun, payloads, same

DEVICES = 2


@pytest.mark.parametrize(
    ("folders", "codec", "base", "device_part"),
    [
        ("vision", "best", "float32", "trained"),
        ("bert", "paper", "int8", "trained"),
        ("bert", "best", "bfloat16", "warm"),
        ("llama", "best", "nf4", "trained"),
        ("vision", "best", "nf4", "frozen"),
    ],
)
def test_runs_of_every_kind_are_the_trainers(
    folders: str,
    codec: str,
    base: str,
    device_part: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """Images, texts and blocks of a language, with a codec that remembers, over each base, whose
    packed part is sent, and whether devices train: the adapter and the payloads of the trainer."""
    model, data = request.getfixturevalue(folders)
    if folders == "llama":  # documents that are blocks: devices have whole ones
        data = tiny.corpus(tmp_path / "corpus", documents=40, words=11)
    config = tiny.config(
        model,
        data,
        codec=codec,
        device_part=device_part,
        devices={"count": DEVICES, "base": base},
        training={"rounds": 2, "local_steps": 2, "batch_size": 4, "micro_batches": 2},
        server={"group": 1, "base": base},
        net={"devices": names(DEVICES), "farewell_s": 5.0},
    )
    keys, prepared = run_keys(tmp_path / "keys"), prepare(config).prepared
    classes, samples = tuple(prepared.data.class_names), prepared.data.train
    own = [
        own_documents(tmp_path / f"data-{n}", samples, part)
        if folders == "llama"
        else {"vision": own_images, "bert": own_reviews}[folders](
            tmp_path / f"data-{n}", samples, part, classes
        )
        for n, part in enumerate(prepared.parts)
    ]
    directory = new_directory(config, tmp_path)
    net = open_net(prepare(config), directory, Silent(), in_place)

    async def play() -> bool:
        service, port = begun(net, keys)
        serving = asyncio.create_task(service.run(asyncio.Event(), port.set_result))
        await asyncio.gather(
            *[take_part(joining(tmp_path, keys, n, await port, own[n])) for n in range(DEVICES)]
        )
        ended = await serving
        service.conclude()
        return ended

    assert asyncio.run(play())
    trained = start(config, tmp_path / "trained")
    same(directory.path, trained.path)
    assert payloads(directory.path) == payloads(trained.path)
