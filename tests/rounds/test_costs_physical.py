"""The physical accounting against torch: bytes that autograd really holds, operations it counts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model.architectures import CLASSES, VOCABULARY, image_batch, save_model
from model.runs import gradient_of
from torch import Tensor
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from transformers import ViTConfig, ViTForImageClassification

from cutlayer.model.describe import describe
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_device_part, load_server_part
from cutlayer.model.lora import Draws
from cutlayer.model.placement import Placement
from cutlayer.model.split import (
    DevicePart,
    LiveBytes,
    SavedBytes,
    ServerPart,
    frozen_forward,
    measure_micro_batch,
)
from cutlayer.rounds.costs import StepFlops, physical_flops
from cutlayer.rounds.memory import activation_bytes, server_activation_bytes
from cutlayer.spec import ActivationPolicy, Base, MiniBatch, ModelSpec, Task, Trained

_IMAGE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
_TOKENS = 24
SPEC = AdapterSpec(rank=4, alpha=4.0)


@dataclass(frozen=True)
class Case:
    """An architecture of the size given, with an adapter."""

    task: Task
    model_type: str
    size: dict[str, Any]
    adapter: AdapterSpec = SPEC
    side: int = 32
    padded: bool = False
    cuts: tuple[int, ...] = (1, 3)

    def describe(self, path: Path, **options: Any) -> ModelSpec:
        if self.task == "image-classification":
            options["image_size"] = self.side
        return describe(
            path, self.task, self.adapter, classes=CLASSES, padded=self.padded, **options
        )

    def device(self, path: Path, cut: int, trained: Trained = Trained.ADAPTERS) -> DevicePart:
        return load_device_part(
            path, self.task, cut, self.adapter, classes=CLASSES, trained=trained
        )

    def server(self, path: Path, cut: int, trained: Trained = Trained.ADAPTERS) -> ServerPart:
        return load_server_part(
            path, self.task, cut, self.adapter, classes=CLASSES, trained=trained
        )

    def inputs(self, samples: int) -> tuple[dict[str, Tensor], list[int] | None]:
        """A mini-batch, and its lengths if it is padded."""
        if self.task == "image-classification":
            return image_batch(samples, self.side), None
        generator = torch.Generator().manual_seed(samples)
        ids = torch.randint(2, VOCABULARY, (samples, _TOKENS), generator=generator)
        if not self.padded:
            return {"input_ids": ids}, None
        lengths = [_TOKENS, *[_TOKENS // 2] * (samples - 1)]
        mask = torch.arange(_TOKENS) < torch.tensor(lengths).unsqueeze(1)
        return {"input_ids": ids, "attention_mask": mask.long()}, lengths


VIT = Case("image-classification", "vit", {**_IMAGE, "intermediate_size": 256})
DINOV2 = Case("image-classification", "dinov2", {**_IMAGE, "mlp_ratio": 4})
BERT = Case("text-classification", "bert", {**_TEXT, "intermediate_size": 256}, padded=True)
LLAMA = Case("causal-lm", "llama", {**_TEXT, "intermediate_size": 176, "num_key_value_heads": 2})
FAMILIES = {"vit": VIT, "dinov2": DINOV2, "bert": BERT, "llama": LLAMA}
# what else a user may choose
VARIANTS = {
    "large rank": Case("causal-lm", "llama", LLAMA.size, AdapterSpec(32, 4.0)),
    "two targets": Case(
        "causal-lm", "llama", LLAMA.size, AdapterSpec(4, 4.0, ("q_proj", "v_proj"))
    ),
    "late targets": Case("image-classification", "vit", VIT.size, AdapterSpec(4, 4.0, ("fc2",))),
    "all kinds": Case(
        "image-classification",
        "dinov2",
        DINOV2.size,
        AdapterSpec(4, 4.0, patch_embedding=True, head=True),
    ),
    "other images": Case("image-classification", "dinov2", DINOV2.size, side=48),
    "unpadded": Case("text-classification", "bert", BERT.size),
    "padded": Case("causal-lm", "llama", LLAMA.size, padded=True),
    "gpt2": Case("causal-lm", "gpt2", {"n_embd": 64, "n_layer": 4, "n_head": 4}, SPEC),
    "some blocks": Case(
        "causal-lm", "llama", LLAMA.size, AdapterSpec(4, 4.0, "all", layers=(0, 3))
    ),
    "late blocks": Case(
        "causal-lm", "llama", LLAMA.size, AdapterSpec(4, 4.0, ("v_proj",), layers=(1, 3)), cuts=(3,)
    ),
    "ranks": Case(
        "text-classification",
        "bert",
        BERT.size,
        AdapterSpec(4, 4.0, head=True, rank_pattern=((r"layer\.(1|3)\..*", 32), ("query", 8))),
        padded=True,
    ),
    "pattern": Case(
        "image-classification",
        "dinov2",
        DINOV2.size,
        AdapterSpec(4, 4.0, r".*\.layer\.[12]\..*(fc1|q_proj)", True, True),
    ),
    "dropout": Case("causal-lm", "llama", LLAMA.size, AdapterSpec(4, 4.0, dropout=0.1)),
    "dropout of patches": Case(
        "image-classification",
        "dinov2",
        DINOV2.size,
        AdapterSpec(4, 4.0, ("q_proj", "fc1"), patch_embedding=True, dropout=0.1),
    ),
    "micro": Case("image-classification", "vit", {"num_hidden_layers": 4}, side=16),
}
# blocks are counted on fake tensors by the same code that runs; what is left is what several blocks
# share under checkpoint (masks, rotary angles), a few bytes a token against some thousands
BYTES_TOLERANCE = 0.05
FLOPS_TOLERANCE = 0.03


@pytest.mark.parametrize(
    "case", [*FAMILIES.values(), *VARIANTS.values()], ids=[*FAMILIES, *VARIANTS]
)
def test_bytes_that_autograd_holds(tmp_path: Path, case: Case) -> None:
    """Device and server part, two cuts, two batch sizes, three ways to hold."""
    path = save_model(tmp_path, case.model_type, case.task, **case.size)
    spec = case.describe(path)
    for cut in case.cuts:
        device, server = case.device(path, cut), case.server(path, cut)
        for samples in (2, 5):
            _check_bytes(case, spec, device, server, samples)


def _check_bytes(
    case: Case, spec: ModelSpec, device: DevicePart, server: ServerPart, samples: int
) -> None:
    inputs, lengths = case.inputs(samples)
    rows = device.adapted.initial_row(0)[None]
    with torch.no_grad():
        activation = device.forward(rows, [samples], inputs)
    batch = MiniBatch(samples, activation.shape[1])
    draws = Draws(tuple(map(str, range(samples))))
    for activation_memory in ActivationPolicy:
        held = measure_micro_batch(device, rows, [samples], inputs, activation_memory, draws)
        for in_flight in (1, 3):
            expected = activation_bytes(spec, device.cut, batch, activation_memory, in_flight)
            assert expected == pytest.approx(held.in_flight(in_flight), rel=BYTES_TOLERANCE)
    received = activation.requires_grad_()
    server_rows = server.adapted.initial_row(0)[None].requires_grad_()
    tensors = [*server.adapted.tensors, server_rows]
    with SavedBytes(tensors) as saved, server.adapted.dropping(draws):
        logits = server.forward(server_rows, [samples], received, lengths)
    assert logits.requires_grad
    expected = server_activation_bytes(spec, server.cut, batch)
    assert expected == pytest.approx(saved.bytes, rel=BYTES_TOLERANCE)


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
def test_what_a_frozen_part_has_at_a_time(tmp_path: Path, case: Case) -> None:
    """Nothing is kept for backward: what is there is a block's, whatever the cut."""
    path, cut = save_model(tmp_path, case.model_type, case.task, **case.size), 3
    layers = replace(case.adapter, layers=(cut,))
    spec = case.describe(path).frozen_below(cut)
    part = load_device_part(path, case.task, cut, layers, classes=CLASSES)
    assert part.adapted.layout.parameters == 0
    inputs, _ = case.inputs(16)
    with LiveBytes([*part.adapted.tensors, *inputs.values()]) as live:
        shape = frozen_forward(part, torch.zeros(1, 0), [16], inputs).shape
    counted = activation_bytes(spec, cut, MiniBatch(16, shape[1]), ActivationPolicy.KEEP)
    assert 0.8 * live.peak <= counted <= 1.25 * live.peak


@pytest.mark.parametrize("case", [VIT, LLAMA], ids=["vit", "llama"])
def test_frozen_below_a_cut_is_as_adapters_above_it_alone(tmp_path: Path, case: Case) -> None:
    """What is counted of a model without its devices' adapters, and of one that never had them."""
    path, batch = save_model(tmp_path, case.model_type, case.task, **case.size), MiniBatch(3, 17)
    for cut in (1, 2):
        frozen = case.describe(path).frozen_below(cut)
        layers = replace(case.adapter, layers=tuple(range(cut, 4)))
        other = replace(case, adapter=layers).describe(path)
        assert physical_flops(frozen, cut, batch) == physical_flops(other, cut, batch)
        for spec in (frozen, other):
            assert spec.device_adapter_parameters(cut) == 0
        for policy in ActivationPolicy:
            kept = [server_activation_bytes(spec, cut, batch, policy) for spec in (frozen, other)]
            assert kept[0] == kept[1]
        assert frozen.frozen_below(cut) == frozen


@pytest.mark.slow("builds the real ViT-B and takes a step of it")
def test_bytes_of_the_real_vit_b(tmp_path: Path) -> None:
    """ViT-B/16 itself, whose closed form from plain dimensions is the same."""
    config = ViTConfig(num_labels=CLASSES)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    case = Case("image-classification", "vit", {}, AdapterSpec(16, 16.0), side=224)
    spec = case.describe(tmp_path)
    for cut in (2, 5):
        part = case.device(tmp_path, cut)
        rows = part.adapted.initial_row(0)[None]
        for samples in (2, 4):
            for activation_memory in ActivationPolicy:
                held = measure_micro_batch(
                    part, rows, [samples], image_batch(samples, 224), activation_memory
                )
                expected = activation_bytes(spec, cut, MiniBatch(samples, 197), activation_memory)
                assert expected == pytest.approx(held.peak, rel=BYTES_TOLERANCE)


@pytest.mark.parametrize("base", Base)
def test_weights_in_any_base(tmp_path: Path, base: Base) -> None:
    path = save_model(tmp_path, "vit", "image-classification", **VIT.size)
    spec = replace(VIT.describe(path), device_base=base, server_base=base)
    part = load_device_part(
        path,
        "image-classification",
        3,
        SPEC,
        classes=CLASSES,
        placement=Placement(base=base),
    )
    rows = part.adapted.initial_row(0)[None]
    assert part.adapted.bytes == spec.device_weight_bytes(3)
    for activation_memory in ActivationPolicy:
        held = measure_micro_batch(part, rows, [4], image_batch(4, 32), activation_memory)
        expected = activation_bytes(spec, 3, MiniBatch(4, 17), activation_memory)
        assert expected == pytest.approx(held.peak, rel=BYTES_TOLERANCE)


_FLOPS = {
    **{name: (case, Trained.ADAPTERS) for name, case in FAMILIES.items()},
    **{
        name: (VARIANTS[name], Trained.ADAPTERS)
        for name in (
            *("two targets", "late targets", "all kinds", "micro"),
            *("some blocks", "late blocks", "ranks", "pattern"),
        )
    },
    **{f"all weights, {name}": (case, Trained.WEIGHTS) for name, case in FAMILIES.items()},
    "all weights, micro": (VARIANTS["micro"], Trained.WEIGHTS),
}


@pytest.mark.parametrize(("case", "trained"), _FLOPS.values(), ids=_FLOPS)
def test_flops_that_torch_counts(tmp_path: Path, case: Case, trained: Trained) -> None:
    """Forward and backward, device and server, two cuts."""
    path = save_model(tmp_path, case.model_type, case.task, **case.size)
    spec = case.describe(path)
    for cut in case.cuts:
        assert trained is Trained.WEIGHTS or cut in spec.cuts
        device, server = case.device(path, cut, trained), case.server(path, cut, trained)
        counted, batch = _count(case, device, server, samples=3)
        expected = physical_flops(spec, cut, batch, trained)
        assert expected.device_forward == pytest.approx(counted.device_forward, rel=FLOPS_TOLERANCE)
        assert expected.device_backward == pytest.approx(
            counted.device_backward, rel=FLOPS_TOLERANCE
        )
        assert expected.server_forward == pytest.approx(counted.server_forward, rel=FLOPS_TOLERANCE)
        assert expected.server_backward == pytest.approx(
            counted.server_backward, rel=FLOPS_TOLERANCE
        )


def _count(
    case: Case, device: DevicePart, server: ServerPart, samples: int
) -> tuple[StepFlops, MiniBatch]:
    """One local step under torch's counter."""
    inputs, lengths = case.inputs(samples)
    device_rows, server_rows = (
        part.adapted.initial_row(0)[None].requires_grad_() for part in (device, server)
    )
    activation, device_forward = _flops(lambda: device.forward(device_rows, [samples], inputs))
    received = activation.detach().requires_grad_()
    logits, server_forward = _flops(
        lambda: server.forward(server_rows, [samples], received, lengths)
    )
    _, server_backward = _flops(lambda: _backward(logits, torch.ones_like(logits)))
    _, device_backward = _flops(lambda: _backward(activation, gradient_of(received)))
    flops = StepFlops(device_forward, device_backward, server_forward, server_backward)
    return flops, MiniBatch(samples, activation.shape[1])


def _backward(output: Tensor, gradient: Tensor) -> Tensor:
    output.backward(gradient)
    return output


def _flops(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What it returns and its operations; torch's own formulas for attention, which it knows by the
    names of the kernels on graphics cards alone."""
    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        output = run()
    return output, counter.get_total_flops()


def _attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))
