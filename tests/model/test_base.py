"""Frozen weights in fewer bytes: what they compute, and what a model of them holds."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from cutlayer.errors import ModelError
from cutlayer.model.base import LARGE, PackedWeight, pack
from cutlayer.model.load import device_tensors, load_device_part, load_server_part, load_whole
from cutlayer.model.placement import Placement
from cutlayer.model.split import SavedBytes
from cutlayer.spec import NF4_BLOCK, Base, Task
from model.architectures import (
    ARCHITECTURES,
    BLOCKS,
    CLASSES,
    batches,
    config_of,
    random_model,
    save_model,
)
from model.runs import full_spec, run_parts, run_whole, trained_row

PACKED = (Base.BFLOAT16, Base.INT8, Base.NF4)
SHAPES = [(5, 96), (10, 40), (24, 24), (7, 3), (33, 33), (2, 192), (3000, 1000)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("base", PACKED)
def test_a_packed_weight_is_near_to_what_it_was(base: Base, shape: tuple[int, int]) -> None:
    """Half a step of the numbers at most: 2^-9 of a value, 1 / 254 of a row's largest, or 0.1521 of
    a block's largest (nf4's widest gap is from -1 to -0.6962)."""
    weight = noise(*shape)
    packed = pack(weight, base, torch.float32)
    assert (packed.shape, packed.dtype) == (weight.shape, torch.float32)
    if base is Base.BFLOAT16:
        bound = weight.abs() * 2**-8
    elif base is Base.INT8:
        bound = weight.abs().amax(dim=1, keepdim=True) / 254
    else:
        padded = functional.pad(weight.flatten(), (0, -weight.numel() % NF4_BLOCK))
        largest = padded.view(-1, NF4_BLOCK).abs().amax(dim=1, keepdim=True)
        flat = (0.1521 * largest).expand(-1, NF4_BLOCK).flatten()
        bound = flat[: weight.numel()].view(shape)
    assert bool(((packed.whole() - weight).abs() <= bound * (1 + 1e-5)).all())
    # 4.5 bits a value, 8 and a float32 a row, 16
    due = base.bytes_per_parameter(shape[1]) * weight.numel()
    assert sum(tensor.nbytes for tensor in packed.held) == pytest.approx(due, abs=36)


@pytest.mark.parametrize("shape", [(24, 40), (96, 64), (3000, 1000)], ids=str)
@pytest.mark.parametrize("base", PACKED)
def test_layers_compute_as_with_the_matrix_itself(base: Base, shape: tuple[int, int]) -> None:
    """A linear layer and GPT-2's transposed one: outputs and the gradient of their input, to the
    bit where it is unpacked in one piece."""
    weight = pack(noise(*shape), base, torch.float32)
    linear, turned = nn.Linear(shape[1], shape[0]), Conv1D(shape[1], shape[0])
    for layer, inputs in ((linear, shape[1]), (turned, shape[0])):
        layer.requires_grad_(False)
        layer.bias.copy_(noise(*layer.bias.shape, seed=1))
        found = []
        for matrix in (weight, weight.whole()):
            layer.weight = nn.Parameter(matrix, requires_grad=False)
            x = noise(2, 3, inputs, seed=2).requires_grad_()
            y = layer(x)
            y.square().sum().backward()
            assert x.grad is not None
            found += [y.detach(), x.grad]
        output, gradient, plain_output, plain_gradient = found
        if math.prod(shape) < LARGE:
            assert torch.equal(output, plain_output) and torch.equal(gradient, plain_gradient)
        # sums of a thousand products in another order
        scale = float(plain_gradient.abs().max())
        torch.testing.assert_close(output, plain_output, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(gradient, plain_gradient, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("native", [True, False], ids=["kernel", "function"])
@pytest.mark.parametrize("base", [Base.INT8, Base.NF4])
def test_unpacked_numbers_are_those_of_bitsandbytes(
    base: Base, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr("cutlayer.model.base._nf4_kernel", lambda: None)
    packed = pack(noise(30, 96), base, torch.float32)
    assert packed.scales is not None
    functions = pytest.importorskip("bitsandbytes").functional
    if base is Base.INT8:
        due = functions.int8_vectorwise_dequant(packed.stored, packed.scales)
    else:
        state = functions.QuantState(
            absmax=packed.scales, shape=torch.Size((45, 64)), blocksize=64, quant_type="nf4",
            dtype=torch.float32,
        )  # fmt: skip
        due = functions.dequantize_4bit(packed.stored.reshape(-1, 1), state).view(30, 96)
    assert torch.equal(packed.whole(), due)


@pytest.mark.parametrize("base", PACKED)
def test_a_thread_unpacks_in_one_place(base: Base) -> None:
    """Of its own; what is looked up, or asked for whole, is a copy."""
    first, second = (pack(noise(3000, 1024, seed=seed), base, torch.float32) for seed in (0, 1))
    places = {rows.data_ptr() for each in (first, second) for _, rows in each.slices()}
    assert len(places) == 1
    with ThreadPoolExecutor(1) as other:
        places |= set(other.submit(lambda: [r.data_ptr() for _, r in first.slices()]).result())
    assert len(places) == 2
    whole, looked_up = first.whole(), first.looked_up(torch.tensor([2999]))
    kept = whole.clone()
    second.whole()
    assert torch.equal(whole, kept) and torch.equal(looked_up, kept[2999:])


@pytest.mark.parametrize("base", PACKED)
def test_an_embedding_looks_its_rows_up(base: Base) -> None:
    table = pack(noise(50, 128), base, torch.float32)
    ids = torch.tensor([[3, 0, 49], [3, 7, 7]])
    assert torch.equal(functional.embedding(ids, table), functional.embedding(ids, table.whole()))


@pytest.mark.parametrize("base", PACKED)
def test_any_other_function_sees_the_matrix(base: Base) -> None:
    weight = pack(noise(6, 64), base, torch.float32)
    assert torch.equal(noise(2, 6) @ weight, noise(2, 6) @ weight.whole())
    assert torch.equal(weight.t(), weight.whole().t())


@pytest.mark.parametrize("base", PACKED)
def test_a_module_takes_it_along_packed(base: Base) -> None:
    layer = nn.Linear(64, 6).requires_grad_(False)
    layer.weight = nn.Parameter(pack(noise(6, 64), base, torch.float32), requires_grad=False)
    layer.to("meta")
    moved = layer.weight
    assert isinstance(moved, PackedWeight) and isinstance(moved, nn.Parameter)
    assert {tensor.device.type for tensor in (moved, *moved.held)} == {"meta"}
    assert (moved.base, moved.shape, moved.dtype) == (base, (6, 64), torch.float32)


def test_nothing_is_kept_for_backward() -> None:
    weight = pack(noise(64, 64), Base.NF4, torch.float32)
    x = noise(3, 64).requires_grad_()
    with SavedBytes() as saved:
        y = functional.linear(x, weight)
    assert saved.bytes == 0 and y.requires_grad


@pytest.fixture(scope="module", params=ARCHITECTURES, ids="-".join)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Task]:
    task, model_type = request.param
    path = tmp_path_factory.mktemp("model")
    random_model(config_of(model_type), task).save_pretrained(path)
    return path, task


@pytest.mark.parametrize("base", PACKED)
def test_split_equals_unsplit_on_every_base(model: tuple[Path, Task], base: Base) -> None:
    """Logits and every adapter's gradient, to the bit; and they are not those of float32."""
    path, task = model
    cut, spec, placement = BLOCKS // 2, full_spec(task), Placement(base=base)
    unsplit = load_whole(path, task, spec, classes=CLASSES, placement=placement)
    device = load_device_part(path, task, cut, spec, classes=CLASSES, placement=placement)
    server = load_server_part(path, task, cut, spec, classes=CLASSES, placement=placement)
    row = trained_row(unsplit)
    for inputs, lengths in batches(task):
        logits, gradients = run_whole(unsplit, row, inputs, lengths)
        split_logits, split_gradients = run_parts(
            device, server, unsplit.adapted.layout.named(row), inputs, lengths
        )
        assert torch.equal(split_logits, logits) and logits.dtype == torch.float32
        assert split_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert torch.equal(split_gradients[name], gradient), name
            assert gradient.any(), name
    plain = load_whole(path, task, spec, classes=CLASSES)
    plain_logits, _ = run_whole(plain, row, inputs, lengths)
    assert not torch.equal(logits, plain_logits)
    assert unsplit.adapted.parameters == plain.adapted.parameters
    assert unsplit.adapted.bytes < plain.adapted.bytes


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with an embedding that is packed, and is its head."""
    return save_model(
        tmp_path_factory.mktemp("model"),
        "llama",
        "causal-lm",
        hidden_size=64,
        vocab_size=LARGE // 64,
        tie_word_embeddings=True,
    )


@pytest.mark.parametrize("base", PACKED)
def test_a_large_embedding_is_packed_and_so_is_the_head_it_is_tied_to(
    large: Path, base: Base
) -> None:
    spec, placement = full_spec("causal-lm"), Placement(base=base)
    part = (large, "causal-lm", 1, spec)
    device = load_device_part(*part, classes=0, placement=placement)  # type: ignore[arg-type]
    server = load_server_part(*part, classes=0, placement=placement)  # type: ignore[arg-type]
    embedding = device.adapted.model.get_input_embeddings().weight
    head = server.adapted.model.get_output_embeddings().weight
    assert embedding.base is base
    assert head.base is (Base.INT8 if base is Base.NF4 else base)
    assert server.adapted.model.get_input_embeddings().weight.numel() == 0
    unsplit = load_whole(large, "causal-lm", spec, classes=0, placement=placement)
    both = device.adapted.parameters + server.adapted.parameters
    # once where its numbers are the same in both places
    assert both - unsplit.adapted.parameters == (0 if base is Base.NF4 else embedding.numel())


@pytest.mark.parametrize("base", PACKED)
def test_a_folder_of_the_packed_weights_gives_the_same_part(
    large: Path, base: Base, tmp_path: Path
) -> None:
    spec, placement = full_spec("causal-lm"), Placement(base=base)
    part = ("causal-lm", 2, spec)
    tensors = device_tensors(large, *part, classes=0, placement=placement)  # type: ignore[arg-type]
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_bytes((large / "config.json").read_bytes())
    own = load_device_part(large, *part, classes=0, placement=placement)  # type: ignore[arg-type]
    sent = load_device_part(tmp_path, *part, classes=0, placement=placement)  # type: ignore[arg-type]
    pairs = list(zip(own.adapted.tensors, sent.adapted.tensors, strict=True))
    assert all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)
    assert (
        sum(value.nbytes for value in tensors.values()) == own.adapted.bytes == sent.adapted.bytes
    )
    # an eighth and the scales, but for the norms
    shares = {Base.BFLOAT16: 0.5, Base.INT8: 0.27, Base.NF4: 0.145}
    assert own.adapted.bytes < shares[base] * 4 * own.adapted.parameters * 1.02
    other = Placement(base=Base.INT8 if base is Base.NF4 else Base.NF4)
    with pytest.raises(ModelError, match=f"are held as {base}, {other.base} is asked for"):
        load_device_part(tmp_path, *part, classes=0, placement=other)  # type: ignore[arg-type]


def test_packed_weights_that_do_not_fit_are_refused(large: Path, tmp_path: Path) -> None:
    part = ("causal-lm", 2, full_spec("causal-lm"))
    placement = Placement(base=Base.INT8)
    tensors = device_tensors(large, *part, classes=0, placement=placement)  # type: ignore[arg-type]
    name = next(name for name in tensors if name.endswith("q_proj.weight.scales"))
    save_file({**tensors, name: tensors[name][1:].clone()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((large / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"a weight of \[64, 64\] in int8 has .* scales \(63,\)"):
        load_device_part(tmp_path, *part, classes=0, placement=placement)  # type: ignore[arg-type]


MISSING = """
import sys
sys.modules["bitsandbytes"] = None
from cutlayer.model.base import check_base
from cutlayer.spec import Base
check_base(Base.BFLOAT16)
check_base(Base.NF4)
"""


@pytest.mark.slow("a process of its own, without bitsandbytes")
def test_without_bitsandbytes_the_extra_is_named() -> None:
    found = subprocess.run(
        [sys.executable, "-c", MISSING], capture_output=True, text=True, check=False
    )
    assert "a base of int8 or nf4 needs bitsandbytes: pip install 'cutlayer[quant]'" in found.stderr
