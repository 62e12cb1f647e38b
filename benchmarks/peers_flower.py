"""The work of `peers.py` as a Flower app, the way Flower's documentation builds one.

    python -c "import peers_flower; peers_flower.main('WORK')"

Runs in an environment with `flwr[simulation]`, torch, transformers and peft, and knows nothing of
cutlayer: `WORK` is a folder with the base model, the first adapter in PEFT's format, pixels, labels
and the samples of every local step. A process that plays devices keeps its model from one to the
next, and copies in what is trained.
"""

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

_FOLDER = "PEERS_WORK"

client, server = ClientApp(), ServerApp()


@cache
def _settings() -> dict[str, Any]:
    return json.loads((_folder() / "work.json").read_text())


def _folder() -> Path:
    return Path(os.environ[_FOLDER])


@cache
def _array(name: str) -> np.ndarray:
    return np.load(_folder() / f"{name}.npy", mmap_mode="r")


@cache
def _model() -> nn.Module:
    settings = _settings()
    base = AutoModelForImageClassification.from_pretrained(
        settings["base"], num_labels=settings["classes"], dtype=torch.float32
    )
    return PeftModel.from_pretrained(base, str(_folder() / "adapter"), is_trainable=True)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _put(model: nn.Module, arrays: ArrayRecord) -> None:
    state = arrays.to_torch_state_dict()
    with torch.no_grad():
        for name, value in _trained(model).items():
            value.copy_(state[name])


def _record(model: nn.Module) -> ArrayRecord:
    return ArrayRecord({name: value.detach() for name, value in _trained(model).items()})


def _batch(part: str, samples: np.ndarray) -> tuple[Tensor, Tensor]:
    pixels, labels = _array(f"{part}_pixels")[samples], _array(f"{part}_labels")[samples]
    return torch.from_numpy(np.asarray(pixels)), torch.from_numpy(np.asarray(labels))


@client.train()
def train(message: Message, context: Context) -> Message:
    """One device's local steps."""
    device = int(context.node_config["partition-id"])
    round_number = int(message.content["config"]["server-round"])
    torch.set_num_threads(1)
    model = _model().train()
    _put(model, message.content["arrays"])
    optimizer = torch.optim.SGD(list(_trained(model).values()), lr=_settings()["learning_rate"])
    losses = []
    for samples in _array("order")[round_number - 1, device]:
        pixels, labels = _batch("train", samples)
        loss = nn.functional.cross_entropy(model(pixel_values=pixels).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    metrics = {"num-examples": int(_array("counts")[device]), "train_loss": sum(losses)}
    content = RecordDict({"arrays": _record(model), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=message)


@server.main()
def federate(grid: Grid, context: Context) -> None:
    """All rounds; when each began, the last accuracy and what was trained go into the folder."""
    settings = _settings()
    rounds, marks, scores = settings["rounds"], dict[str, float](), dict[int, float]()

    def evaluated(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        # called before the first round and after each: where it is called, a round has ended
        marks[f"end {number}"] = time.time()
        if number in (0, rounds):
            torch.set_num_threads(settings["cores"])
            model = _model().eval()
            _put(model, arrays)
            right = 0
            with torch.no_grad():
                for at in range(0, len(_array("test_labels")), 100):
                    pixels, labels = _batch("test", np.arange(at, at + 100))
                    right += int((model(pixel_values=pixels).logits.argmax(1) == labels).sum())
            scores[number] = right / len(_array("test_labels"))
        marks[f"begin {number + 1}"] = time.time()
        return None

    strategy = FedAvg(fraction_evaluate=0.0)
    first = _record(_model())
    result = strategy.start(
        grid=grid, initial_arrays=first, num_rounds=rounds, evaluate_fn=evaluated
    )
    final = {name: value.numpy() for name, value in result.arrays.to_torch_state_dict().items()}
    np.savez(_folder() / "flower.npz", **final)
    found = {"marks": marks, "accuracy": {str(key): value for key, value in scores.items()}}
    (_folder() / "flower.json").write_text(json.dumps(found))


def main(folder: str) -> None:
    """Play the work in `folder`: a process a core, which plays one device after another."""
    os.environ[_FOLDER] = folder
    cores = _settings()["cores"]
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=_settings()["devices"],
        backend_config={
            # a cluster of its own, whoever else has one on this machine
            "init_args": {
                "address": "local",
                "_temp_dir": f"{folder}/ray",
                "num_cpus": cores,
                "include_dashboard": False,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
