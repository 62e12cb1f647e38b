"""A server in this process, and what two runs have in common."""

import asyncio
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from cutlayer.jobs.network import NetJob
from cutlayer.jobs.serve import Service
from cutlayer.net.identity.run_keys import RunKeys


def begun(net: NetJob, keys: RunKeys, port: int = 0) -> tuple[Service, "asyncio.Future[int]"]:
    """A server, and the port that it will have."""
    return Service(net, keys, ("127.0.0.1", port)), asyncio.get_running_loop().create_future()


def adapter(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter" / "adapter_model.safetensors")


def same(one: Path, other: Path) -> None:
    """Both runs ended with the same adapter, bit for bit."""
    first, second = adapter(one), adapter(other)
    assert first.keys() == second.keys()
    assert first
    assert all(torch.equal(first[name], second[name]) for name in first)


def payloads(directory: Path) -> list[dict[str, int]]:
    """The bytes of each round by payload, but for what one hears for all in the simulation."""
    lines = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    kept = ("activation", "labels", "gradient", "adapter_up")
    return [{name: line["bytes_by_payload"].get(name, 0) for name in kept} for line in lines[1:]]
