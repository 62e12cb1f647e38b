"""Training on the accelerator without hardware; `test_accelerator.py` runs this in a process of its
own.

A tensor that is made on the wrong device, a copy to the host that nobody asked for, and a number
that an accelerator may lack fail. Values are those of the processor but for the order of sums: it
has fused kernels.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerator import DEVICE, Accelerator, WrongDeviceError
from model.architectures import ARCHITECTURES, CLASSES, WIDTH, batches, save_model
from model.runs import full_spec
from net.harness import Run, final, play, trained
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cutlayer.codec.codec import EMPTY, Direction
from cutlayer.codec.presets import PRESETS
from cutlayer.codec.staged import HALVINGS
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.jobs.train import finish, new_directory
from cutlayer.model.base import PackedWeight
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.optimizer import AdamW
from cutlayer.model.placement import HOST, ON_HOST, Placement, to_device
from cutlayer.model.split import DevicePart, ServerPart, device_forward
from cutlayer.spec import ActivationPolicy, Base, Task
from cutlayer.training.evaluation import evaluate
from cutlayer.training.exchange import Exchange, Load
from cutlayer.training.expected import initial_state
from cutlayer.training.memory import measure_memory
from cutlayer.training.round import Round
from cutlayer.training.run_directory import RunDirectory
from cutlayer.training.server_batch import ServerLoad, server_batch, server_pass
from cutlayer.training.state import AdapterBank, AdapterState, Setup
from cutlayer.training.torch_codec import for_device

Folders = tuple[Path, Path]
THERE = Placement(DEVICE)
# transformers looks, once a pass, whether a text's mask masks anything
LIBRARY = "masking_utils.py"
# what says nothing of who waits: newer Pythons have no frame for some of these
UNNAMED = (":to_device", ":<listcomp>", ":<dictcomp>", ":<genexpr>")
# what a packet costs, beside which nothing waits within a local step
PACKET = {"torch_codec.py:_arrived"}
# what a round costs: adapters as they are sent and merged, the losses as it closes; and the first
# one the weights as devices get them
ROUND = {
    "part_file.py:content_of",
    "adapter_rows.py:pack_adapter",
    "optimizer.py:merged",
    "optimizer.py:sum_of",
    "cohort.py:_end",
    "round.py:_close",
}


@pytest.fixture(autouse=True)
def plain_attention() -> Iterator[None]:
    """The processor has a fused kernel; both are to do the same operations."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def waits(accelerator: Accelerator) -> list[str]:
    """Where in code of ours the host waited for something; `backward` in a thread of autograd's."""
    named = [
        next((place for place in wait.where if not place.endswith(UNNAMED)), "backward")
        for wait in accelerator.waits
    ]
    return [place for place in named if not place.startswith(LIBRARY)]


@dataclass(frozen=True)
class Parts:
    """Both parts of one model."""

    device: DevicePart
    server: ServerPart
    placement: Placement


def parts_of(path: Path, task: Task, placement: Placement) -> Parts:
    """Cut after block 1, with adapters wherever there can be some."""
    part = (path, task, 1, full_spec(task))
    return Parts(
        load_device_part(*part, classes=CLASSES, placement=placement),
        load_server_part(*part, classes=CLASSES, placement=placement),
        placement,
    )


def labels_of(task: Task, inputs: dict[str, Tensor], lengths: Sequence[int] | None) -> Tensor:
    """A class a sample, or the tokens themselves."""
    if task != "causal-lm":
        return torch.tensor([0, 1, 4, 2])
    ids = inputs["input_ids"].clone()
    if lengths is not None:
        ids[torch.arange(ids.shape[1]) >= torch.tensor(lengths).unsqueeze(1)] = -100
    return ids


def local_step(
    parts: Parts,
    inputs: dict[str, Tensor],
    lengths: Sequence[int] | None,
    policy: ActivationPolicy,
    exchange: Exchange | None = None,
) -> list[Tensor]:
    """Two devices of 3 samples and 1 through a local step: losses, gradients at the cut and of both
    sides' rows; and, after them, the rows that have stepped."""
    optimizer, sizes, place = AdamW(), (3, 1), parts.placement.device
    both = parts.device, parts.server
    sides = [
        AdapterBank(
            AdapterState(part.adapted.initial_row(0), {}),
            (0, 1),
            optimizer,
            shared=False,
            device=place,
        )
        for part in both
    ]
    rows = [side.gather((0, 1)).requires_grad_() for side in sides]
    pending = device_forward(parts.device, rows[0], sizes, inputs, policy)
    activation = pending.activation
    if exchange is not None:
        load = Load(activation, None, (0, 1, 2, 3))
        activation = exchange.send(load, (1, 0, 0, 0, Direction.UP), place).tensor
    labels = labels_of(parts.device.task, inputs, lengths)
    result = server_pass(parts.server, rows[1], sizes, activation, lengths, labels, (0.5, 1.0))
    gradient = result.gradient
    if exchange is not None:
        load = Load(gradient, None, (0, 1, 2, 3))
        gradient = exchange.send(load, (1, 0, 0, 0, Direction.DOWN), place).tensor
    pending.backward(gradient)
    for side, own in zip(sides, rows, strict=True):
        assert own.grad is not None
        side.collect((0, 1), own.grad)
        side.step({0: 1e-2, 1: 1e-2})
    gradients = [own.grad for own in rows if own.grad is not None]
    return [result.losses, result.gradient, *gradients, *(side.rows for side in sides)]


def assert_near(found: Tensor, wanted: Tensor) -> None:
    """Sums of at most a few hundred float32 values in any order."""
    assert (found.cpu() - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_local_step_is_made_there_and_is_the_processors(
    architecture: tuple[Task, str], tmp_path: Path
) -> None:
    task, name = architecture
    path = save_model(tmp_path, name, task)
    here = parts_of(path, task, ON_HOST)
    with Accelerator() as accelerator:
        there = parts_of(path, task, THERE)
    for policy, (inputs, lengths) in zip(ActivationPolicy, batches(task) * 2, strict=False):
        wanted = local_step(here, inputs, lengths, policy)
        with accelerator:
            accelerator.waits.clear()
            found = local_step(there, inputs, lengths, policy)
            assert not waits(accelerator)
            assert len(accelerator.waits) <= (0 if task == "image-classification" else 9)
            assert {each.device for each in found} == {DEVICE}
            # AdamW's first step is the gradient's sign, so a row may differ where it is near zero
            for expected, each in zip(wanted[:4], found[:4], strict=True):
                assert_near(each, expected)


def moved(job: Job) -> Setup:
    """The job with both parts on the accelerator."""
    setup, adapter, path = job.setup, job.adapter, job.found.path
    part = (path, setup.training.task, setup.server.device_part.cut, adapter)
    classes, trained = len(job.prepared.data.class_names), setup.training.scheme.trained
    device = load_device_part(*part, classes=classes, placement=THERE, trained=trained)
    server = load_server_part(*part, classes=classes, placement=THERE, trained=trained)
    return replace(
        setup,
        devices=tuple(replace(each, part=device) for each in setup.devices),
        server=replace(setup.server, device_part=device, part=server),
    )


@pytest.mark.parametrize("name", ["vit", "llama"])
def test_a_bfloat16_base_computes_there(name: str, tmp_path: Path) -> None:
    """Adapters and gradients are float32; values are those of float32 to bfloat16's 8 bits."""
    task: Task = "image-classification" if name == "vit" else "text-classification"
    path = save_model(tmp_path, name, task)
    inputs, lengths = batches(task)[0]
    wanted = local_step(parts_of(path, task, ON_HOST), inputs, lengths, ActivationPolicy.KEEP)
    with Accelerator() as accelerator:
        parts = parts_of(path, task, Placement(DEVICE, Base.BFLOAT16))
        accelerator.waits.clear()
        found = local_step(parts, inputs, lengths, ActivationPolicy.KEEP)
        assert not waits(accelerator)
        assert {each.dtype for each in found} == {torch.float32}
        # three blocks, each rounded to 8 bits a few times
        torch.testing.assert_close(found[0].cpu(), wanted[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("base", [Base.INT8, Base.NF4])
@pytest.mark.parametrize("name", ["vit", "gpt2", "llama"])
def test_a_packed_base_computes_there(name: str, base: Base, tmp_path: Path) -> None:
    """Packed on the host, moved, and unpacked there, by bitsandbytes' own operations: values are
    the processor's on that base to bfloat16's 8 bits, and nobody waits."""
    task: Task = "image-classification" if name == "vit" else "text-classification"
    path = save_model(tmp_path, name, task)
    inputs, lengths = batches(task)[0]
    here = parts_of(path, task, Placement(base=base))
    wanted = local_step(here, inputs, lengths, ActivationPolicy.KEEP)
    with Accelerator() as accelerator:
        parts = parts_of(path, task, Placement(DEVICE, base))
        packed = [
            each
            for each in parts.device.adapted.model.parameters()
            if isinstance(each, PackedWeight)
        ]
        assert packed and {one.device for each in packed for one in each.held} == {DEVICE}
        accelerator.waits.clear()
        found = local_step(parts, inputs, lengths, ActivationPolicy.KEEP)
        assert not waits(accelerator)
        assert {each.device for each in found} == {DEVICE}
        # what is unpacked is bfloat16 there: three blocks, each rounded to 8 bits a few times
        for expected, each in zip(wanted[:4], found[:4], strict=True):
            assert (each.cpu() - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("task", ["text-classification", "causal-lm"])
def test_devices_that_share_a_pass_are_served_there(task: Task, tmp_path: Path) -> None:
    """Of unequal samples and tokens."""
    path = save_model(tmp_path, "llama", task)
    part = parts_of(path, task, ON_HOST).server
    generator = torch.Generator().manual_seed(1)
    loads = []
    for seed, (samples, tokens) in enumerate([(3, 7), (1, 4), (2, 6)]):
        shape = (samples, tokens) if task == "causal-lm" else (samples,)
        load = ServerLoad(
            row=part.adapted.initial_row(seed),
            activation=torch.randn(samples, tokens, WIDTH, generator=generator),
            lengths=tuple(range(tokens, tokens - samples, -1)),
            labels=torch.randint(CLASSES, shape, generator=generator),
        )
        loads.append(load)
    wanted = server_batch(part, loads)
    with Accelerator() as accelerator:
        there = parts_of(path, task, THERE).server
        sent = [
            replace(
                load,
                row=to_device(load.row, DEVICE),
                activation=to_device(load.activation, DEVICE),
            )
            for load in loads
        ]
        accelerator.waits.clear()
        found = server_batch(there, sent)
        assert not waits(accelerator)
        for reply, expected in zip(found, wanted, strict=True):
            assert_near(reply.gradient, expected.gradient)
            assert_near(reply.row_gradient, expected.row_gradient)
            assert_near(reply.loss, expected.loss)


HIDDEN: dict[str, Callable[[Tensor], Tensor]] = {
    "a copy to the host and back": lambda out: out.cpu().to(DEVICE),
    "a number": lambda out: out * float(out.detach().sum()),
    "a decision": lambda out: out if out.detach().sum() > 0 else -out,
    "a mask": lambda out: out + out.detach()[out.detach() > 0].sum(),
    "a copy from the host that is waited for": lambda out: out + torch.zeros(WIDTH).to(DEVICE),
}
REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "a tensor made on the host": lambda out: out + torch.zeros(WIDTH),
    "double precision": lambda out: out.double().float(),
    "an array": lambda out: out * float(np.asarray(out.detach()).sum()),
    "a list": lambda out: out * out.detach().tolist()[0],
    "a list of places": lambda out: out[[0, 1, 2, 3]],
    "a tensor of a list": lambda out: out + torch.tensor([1.0] * WIDTH, device=DEVICE),
}


def with_fault(path: Path, fault: Callable[[Tensor], Tensor]) -> Parts:
    """Parts of which the server's does this to what its first norm gives."""
    parts = parts_of(path, "image-classification", THERE)
    norm = next(each for each in parts.server.adapted.model.modules() if _is_norm(each))
    norm.register_forward_hook(lambda module, given, out: fault(out))
    return parts


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) and module.weight.numel() > 0


@pytest.mark.parametrize("what", HIDDEN)
def test_what_hides_in_a_model_is_seen(what: str, tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", "image-classification")
    inputs, _ = batches("image-classification")[0]
    with Accelerator() as accelerator:
        parts = with_fault(path, HIDDEN[what])
        accelerator.waits.clear()
        local_step(parts, inputs, None, ActivationPolicy.KEEP)
        seen = {*waits(accelerator)}
        assert "on_accelerator.py:<lambda>" in seen
        assert seen <= {"on_accelerator.py:<lambda>", "backward", "server_batch.py:server_pass"}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_accelerator_takes_is_refused(what: str, tmp_path: Path) -> None:
    path = save_model(tmp_path, "vit", "image-classification")
    inputs, _ = batches("image-classification")[0]
    with Accelerator():
        parts = with_fault(path, REFUSED[what])
        with pytest.raises((WrongDeviceError, RuntimeError)):
            local_step(parts, inputs, None, ActivationPolicy.KEEP)


@pytest.mark.parametrize("preset", ["paper", "paper-rans", "fast", "best"])
def test_a_packet_is_made_there_and_crosses_as_symbols(preset: str) -> None:
    """Of a byte a value at most, beside small statistics; and the host's decoder reads it."""
    codec, shape = PRESETS[preset]().up, (8, 33, 64)
    here, generator = for_device(codec, HOST), torch.Generator().manual_seed(1)
    sent, received = EMPTY, EMPTY
    for number in range(6):
        tensor = torch.randn(shape, generator=generator) * torch.arange(1.0, 65) + 0.3
        with Accelerator() as accelerator:
            there = to_device(tensor, DEVICE)
            encoded = for_device(codec, DEVICE).encode(
                there, sent, np.random.default_rng(number), lengths=[33, 5, 33, 33, 20, 1, 33, 8]
            )
            arrived = for_device(codec, DEVICE).decode(encoded.packet, shape, received)
            assert arrived.tensor.device == DEVICE
            assert {*waits(accelerator)} <= PACKET
            crossed = sum(each.bytes for each in accelerator.waits)
            found = arrived.tensor.cpu()
        decoded = here.decode(encoded.packet, shape, received)
        torch.testing.assert_close(found, decoded.tensor, rtol=1e-4, atol=1e-3)
        sent, received = encoded.state, decoded.state
        # the trial of a basis needs its moments, and codes the packet with and without it, and as
        # it looks for the columns that are worth bits
        codings = 2 + HALVINGS + 1
        trial = codings * tensor.numel() + 4 * 64 * 66 if preset == "best" else 0
        assert crossed <= tensor.numel() + trial


@pytest.mark.parametrize(
    ("folders", "settings"),
    [
        ("vision", {"codec": "none"}),
        ("vision", {"codec": "paper"}),
        ("vision", {"codec": "none", "scheme": "fl-full"}),
        ("vision", {"codec": "none", "scheme": "sl"}),
        ("bert", {"codec": "fast", "server": {"batch": "arrivals"}}),
        ("bert", {"codec": "best"}),
        ("llama", {"codec": "best"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_round_waits_for_packets_and_at_its_ends_alone(
    folders: str, settings: dict[str, object], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """And its evaluation; and the checkpoint goes on on the processor."""
    config = tiny.config(
        *request.getfixturevalue(folders), devices={"memory_mib": None}, **settings
    )
    job = prepare(config)
    here = Round(job.setup, initial_state(job.setup)).play()
    with Accelerator() as accelerator:
        setup = moved(job)
        state = initial_state(setup)
        assert torch.equal(state.device.row, initial_state(job.setup).device.row)
        accelerator.waits.clear()
        there = Round(setup, state).play()
        assert {*waits(accelerator)} <= PACKET | ROUND
        accelerator.waits.clear()
        found = evaluate(setup.training, setup.server, there.state)
        # losses and right ones; of classes also what samples were taken for
        assert waits(accelerator) == ["evaluation.py:_pass"] * (2 if folders == "llama" else 3)
        RunDirectory(tmp_path).save(there.state)
        assert there.state.device.row.device == there.state.server.row.device == DEVICE
    wanted = evaluate(job.setup.training, job.setup.server, here.state)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-3)
    assert there.train_loss == pytest.approx(here.train_loss, rel=1e-3)
    saved = RunDirectory(tmp_path).load()
    assert saved is not None and saved.device.row.device.type == "cpu"
    onward = Round(job.setup, saved).play()
    with Accelerator():
        again = Round(setup, saved).play()
    assert again.train_loss == pytest.approx(onward.train_loss, rel=1e-3)


def test_a_network_ends_with_the_trainers_bits(vision: Folders, tmp_path: Path) -> None:
    """Both ends on the accelerator; what a device keeps on its disk is the host's."""
    with Accelerator() as accelerator:
        setup = moved(prepare(tiny.config(*vision, codec="best")))
        run = Run(setup, tmp_path, rounds=1)
        accelerator.waits.clear()
        asyncio.run(play(run))
        seen = {*waits(accelerator)}
        state = trained(setup, rounds=1)[-1].state
        rows = state.device.row.cpu(), state.server.row.cpu()
    assert torch.equal(final(run).device.row, rows[0])
    assert torch.equal(final(run).server.row, rows[1])
    disks = {"worker.py:tensors", "exchange.py:streams_to_tensors", "run_directory.py:save"}
    ends = {"adapter_rows.py:pack_adapter", "optimizer.py:merged", "worker.py:merge"}
    assert seen == PACKET | disks | ends | {"worker.py:_mean_loss", "worker.py:_impossible"}


def test_memory_is_counted_as_the_processors(llama: Folders) -> None:
    job = prepare(tiny.config(*llama, codec="none"))
    wanted = measure_memory(job.setup, initial_state(job.setup))
    with Accelerator():
        setup = moved(job)
        found = measure_memory(setup, initial_state(setup))
    for own, known in ((found.device, wanted.device), (found.server, wanted.server)):
        assert (own.weights, own.adapters, own.input) == (
            known.weights,
            known.adapters,
            known.input,
        )
        # attention without a fused kernel keeps its weights there, and here too
        assert own.activations == pytest.approx(known.activations, rel=0.05)


def test_a_run_that_moves_says_so(
    vision: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = prepare(tiny.config(*vision, codec="none", training={"rounds": 1}))
    directory = new_directory(job.config, tmp_path)
    finish(job, directory)
    longer = job.config.training.model_copy(update={"rounds": 2})
    job = replace(job, config=job.config.model_copy(update={"training": longer}))
    with Accelerator():
        finish(replace(job, setup=moved(job)), directory)
    moved_line = "computed on cpu, float32; cpu, float32 (devices' part; server's part) and goes on"
    assert moved_line in caplog.text
    summary = json.loads((directory.path / "summary.json").read_text())
    assert summary["devices_on"] == summary["server_on"] == "fakegpu, float32"
    assert summary["rounds"] == 2
