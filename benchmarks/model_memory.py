"""What a server and a device take of memory, by base, beside what was planned.

    python examples/make_random_model.py llama-0.7b
    python benchmarks/model_memory.py llama-0.7b [--bases nf4 bfloat16 float32] [--json FILE]
    python benchmarks/model_memory.py smollm2 --tokens 4096 [--json FILE]

Each figure is of a process of its own, which does what a server of eight devices does, or a device,
in one local step after another; a process with a tiny model tells what both take without one. With
`--tokens` both sides are in one process, which evaluates and trains on texts of that length. See
README.md here for what each figure answers. Needs `pip install '.[train]'`, `.[quant]` for nf4 and
int8, and Linux, whose `/proc` tells peaks.
"""

import argparse
import json
import math
import multiprocessing
import runpy
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from cutlayer.codec.codec import Direction
from cutlayer.codec.presets import best
from cutlayer.config.schema import Config
from cutlayer.jobs.plan import plan
from cutlayer.jobs.prepare import prepare
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.optimizer import AdamW
from cutlayer.model.placement import HOST, Placement
from cutlayer.model.split import DevicePart, ServerPart, device_forward
from cutlayer.spec import ActivationPolicy, Base
from cutlayer.training.evaluation import evaluate
from cutlayer.training.exchange import Exchange, Load, encode, group_inputs, micro_batches
from cutlayer.training.expected import initial_state
from cutlayer.training.server_batch import server_pass
from cutlayer.training.state import AdapterBank, AdapterState, RunState, Setup
from cutlayer.training.torch_codec import for_device

_MIB = 2**20
_DEVICES, _SAMPLES, _TOKENS, _RANK, _CUT, _STEPS = 8, 2, 64, 8, 4, 2
_SCRIPT = Path(__file__).parents[1] / "examples" / "make_random_model.py"


@dataclass(frozen=True)
class Row:
    """One side with one base [MiB]: the peak of its process beyond that of one with a tiny model,
    and what the plan says."""

    base: str
    side: str
    process: float
    planned: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a causal language model: a folder, or by name")
    parser.add_argument("--bases", nargs="+", default=["nf4", "bfloat16", "float32"])
    parser.add_argument("--tokens", type=int, help="train on Brown in texts of so many, one each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    arguments = parser.parse_args(words)
    if arguments.tokens:
        return _long(arguments.model, arguments.tokens, arguments.json)
    arguments.model = Path(arguments.model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tiny = _tiny_model(Path(folder) / "tiny")
        for side in ("server", "device"):
            without = peak_mib(side, tiny, Base.FLOAT32)
            for base in arguments.bases:
                process = peak_mib(side, arguments.model, Base(base)) - without
                rows.append(Row(base, side, process, planned_mib(side, arguments.model, base)))
    Console().print(_table(rows))
    if arguments.json:
        text = json.dumps([asdict(row) for row in rows], indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0


def planned_mib(side: str, model: Path, base: str) -> float:
    """What `cutlayer plan --fixed` says of that side."""
    config = Config(
        model={"name": str(model), "cut": _CUT},
        data={"name": "brown", "max_tokens": _TOKENS},
        adapter={"rank": _RANK, "alpha": _RANK},
        training={"rounds": 2, "local_steps": _STEPS, "batch_size": _SAMPLES},
        devices={"count": _DEVICES, "base": base, "memory_mib": None},
        server={"base": base},
    )
    chosen = plan(config, fixed=True).chosen
    assert chosen is not None
    return (chosen.server_memory if side == "server" else chosen.memory[0]).total / _MIB


def peak_mib(side: str, model: Path, base: Base) -> float:
    """The most that a process of its own has in memory while it loads and trains."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_serve if side == "server" else _train, (model, base))


def _serve(model: Path, base: Base) -> float:
    """A server at a later round's local steps, with what devices hand in at its end."""
    torch.set_num_threads(1)
    spec, placement = AdapterSpec(_RANK, float(_RANK)), Placement(base=base)
    part = (model, "causal-lm", _CUT, spec)
    device = load_device_part(*part, classes=0, placement=placement)
    server = load_server_part(*part, classes=0, placement=placement)
    codecs = best(packets=2 * _STEPS)
    bank = _bank(server, _DEVICES)
    before = {name: value.clone() for name, value in bank.optimizer.items()}
    config = server.adapted.model.config
    streams = []
    for number in range(_STEPS):
        activation = torch.randn(_SAMPLES, _TOKENS, config.hidden_size)
        labels = torch.randint(0, config.vocab_size, (_SAMPLES, _TOKENS))
        up, down = for_device(codecs.up, HOST), for_device(codecs.down, HOST)
        sent = encode(up, _load(activation), 0, (1, number, 0, 0, Direction.UP), {})
        came = up.decode(sent.packet, tuple(activation.shape), {})
        rows = bank.gather((number,)).requires_grad_()
        result = server_pass(server, rows, [_SAMPLES], came.tensor, came.lengths, labels, [1.0])
        answer = encode(down, _load(result.gradient), 0, (1, number, 0, 0, Direction.DOWN), {})
        streams.append((came.state, answer.state))
        assert rows.grad is not None
        bank.collect((number,), rows.grad)
        bank.step({number: 1e-3})
    handed_in = [torch.ones(device.adapted.layout.parameters) for _ in range(_DEVICES + 1)]
    del before, handed_in
    return _peak_mib()


def _train(model: Path, base: Base) -> float:
    """A device's local steps."""
    torch.set_num_threads(1)
    spec, placement = AdapterSpec(_RANK, float(_RANK)), Placement(base=base)
    part = load_device_part(model, "causal-lm", _CUT, spec, classes=0, placement=placement)
    codec = for_device(best(packets=2 * _STEPS).up, HOST)
    bank = _bank(part, 1)
    for number in range(_STEPS):
        ids = torch.randint(0, part.adapted.model.config.vocab_size, (_SAMPLES, _TOKENS))
        rows = bank.gather((0,)).requires_grad_()
        pending = device_forward(part, rows, [_SAMPLES], {"input_ids": ids}, ActivationPolicy.KEEP)
        encode(codec, _load(pending.activation), 0, (1, 0, number, 0, Direction.UP), {})
        pending.release()
        pending.backward(torch.randn(pending.shape))
        assert rows.grad is not None
        bank.collect((0,), rows.grad)
        bank.step({0: 1e-3})
    return _peak_mib()


# Long texts: a text a step, both sides and the codec in one process.


_LONG_STEPS = 4
_LONG_GOALS = {"peak_mib": 12 * 1024, "codec": 0.1}


def _long(model: str, tokens: int, file: Path | None) -> int:
    """The process's peak, and the codec's processor time over that of the device's own compute."""
    torch.set_num_threads(1)
    config = Config(
        model={"name": model, "cut": _CUT},
        data={"name": "brown", "max_tokens": tokens, "train_samples": 8, "test_samples": 2},
        training={"rounds": 1, "local_steps": _LONG_STEPS, "batch_size": 1},
        devices={"count": 1, "memory_mib": None},
        threads=1,
    )
    setup = prepare(config).setup
    state = initial_state(setup)
    perplexity = math.exp(evaluate(setup.training, setup.server, state).loss)
    seconds = _long_steps(setup, state)
    own = seconds["device forward"] + seconds["device backward"]
    found = {
        "tokens": tokens,
        "perplexity": perplexity,
        "peak_mib": _peak_mib(),
        **{f"{phase} s": took for phase, took in seconds.items()},
        "codec": (seconds["up"] + seconds["down"]) / own,
    }
    table = Table("figure", "value", "at most", title=f"{model}, a text of {tokens} tokens a step")
    for name, value in found.items():
        goal = _LONG_GOALS.get(name)
        table.add_row(name, f"{value:.4g}", "" if goal is None else f"{goal:g}")
    Console().print(table)
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(found[name] <= goal for name, goal in _LONG_GOALS.items()) else 1


def _long_steps(setup: Setup, state: RunState) -> dict[str, float]:
    """Processor seconds of a local step by phase, the mean of all; the codec's are of both ends."""
    took: dict[str, float] = defaultdict(float)
    last = time.process_time()

    def lap(phase: str) -> None:
        nonlocal last
        now = time.process_time()
        took[phase] += (now - last) / _LONG_STEPS
        last = now

    (device,), server, training = setup.devices, setup.server, setup.training
    banks = [_bank(part, 1) for part in setup.parts]
    exchange = Exchange(training.codecs, training.seed, state.streams)
    for step in range(_LONG_STEPS):
        (micro,) = micro_batches(device, 1, step, 1)
        assert micro is not None
        group, labels = group_inputs([micro.batch]), torch.from_numpy(micro.batch.labels)
        below, above = (bank.gather((0,)).requires_grad_() for bank in banks)
        lap("rest")
        pending = device_forward(
            device.part, below, group.sizes, group.inputs, training.activation_memory
        )
        lap("device forward")
        load = Load(pending.activation, micro.batch.lengths, micro.samples)
        came = exchange.send(load, (1, 0, step, 0, Direction.UP), HOST)
        pending.release()
        lap("up")
        result = server_pass(
            server.part, above, group.sizes, came.tensor, came.lengths, labels, [1.0]
        )
        lap("server")
        load = Load(result.gradient, micro.batch.lengths, micro.samples)
        answer = exchange.send(load, (1, 0, step, 0, Direction.DOWN), HOST)
        lap("down")
        pending.backward(answer.tensor)
        lap("device backward")
        for bank, rows in zip(banks, (below, above), strict=True):
            assert rows.grad is not None
            bank.collect((0,), rows.grad)
            bank.step({0: training.learning_rate})
    return dict(took)


def _bank(part: DevicePart | ServerPart, devices: int) -> AdapterBank:
    state = AdapterState(part.adapted.initial_row(0), {})
    return AdapterBank(state, range(devices), AdamW(weight_decay=0.0), shared=False, device=HOST)


def _load(tensor: torch.Tensor) -> Load:
    return Load(tensor, (_TOKENS,) * _SAMPLES, tuple(range(_SAMPLES)))


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def _tiny_model(folder: Path) -> Path:
    sizes = ["--width", "64", "--blocks", str(_CUT + 2), "--vocabulary", "512"]
    with patch.object(sys, "argv", [str(_SCRIPT), str(folder), *sizes]):
        runpy.run_path(str(_SCRIPT), run_name="__main__")
    return folder


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="memory [MiB]")
    for heading in ("side", "base", "process", "planned", "planned / process"):
        table.add_column(heading, justify="left" if heading in ("base", "side") else "right")
    for row in rows:
        ratio = row.planned / row.process
        table.add_row(
            row.side, row.base, f"{row.process:.0f}", f"{row.planned:.0f}", f"{ratio:.2f}"
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
