"""What training holds, and that evaluation never holds more."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import tiny
import torch
import transformers
from jaxtyping import Int
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cutlayer.config.schema import Config
from cutlayer.data.samples import Batch, BatchMaker, Samples
from cutlayer.errors import ConfigError
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.model.described import AdapterSpec
from cutlayer.model.load import load_server_part
from cutlayer.training.evaluation import evaluate
from cutlayer.training.exchange import group_inputs
from cutlayer.training.expected import initial_state
from cutlayer.training.memory import MOST_PASS_BYTES, measure_memory
from cutlayer.training.round import Round
from cutlayer.training.server_batch import server_pass
from cutlayer.units import MIB

Folders = tuple[Path, Path]


@final
class LiveBytes(TorchDispatchMode):
    """Counts what tensors made inside the block hold: `peak` is the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self._now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._seen.add(storage)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self._now -= size


@final
class Spy(BatchMaker):
    """Remembers how many samples were asked for at once."""

    def __init__(self, own: BatchMaker) -> None:
        self._own = own
        self.sizes: list[int] = []

    def make(self, samples: Samples, indices: Int[np.ndarray, " row"]) -> Batch:
        self.sizes.append(len(indices))
        return self._own.make(samples, indices)


def language_model(folder: Path, vocabulary: int, tokens: int) -> Path:
    """A Llama, 32 wide, of three blocks, with a vocabulary of which the tokenizer knows ten."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=tokens,
        tie_word_embeddings=True,
    )
    tiny.text_model(folder, "llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def job_of(folders: Folders, batch_size: int, tokens: int, devices: int) -> Job:
    values = tiny.config(
        *folders,
        training={"rounds": 1, "local_steps": 1, "batch_size": batch_size},
        devices={"count": devices, "memory_mib": None},
        codec="none",
    ).model_dump()
    return prepare(
        Config.model_validate({**values, "data": {**values["data"], "max_tokens": tokens}})
    )


@pytest.mark.parametrize(
    ("batch_size", "micro_batches", "most"), [(4, 1, 4), (7, 2, 4), (99, 1, 32)]
)
def test_evaluation_takes_no_more_samples_than_a_device(
    vision: Folders, batch_size: int, micro_batches: int, most: int
) -> None:
    """The test split has 32 samples."""
    training = {"batch_size": batch_size, "micro_batches": micro_batches}
    job = prepare(tiny.config(*vision, training=training, partition={"name": "iid"}))
    spy = Spy(job.setup.server.batches)
    server = replace(job.setup.server, batches=spy)
    evaluate(job.setup.training, server, initial_state(job.setup))
    assert max(spy.sizes) == most
    assert sum(spy.sizes) == len(job.setup.server.test)


def test_evaluation_hardly_depends_on_its_batches(llama: Folders) -> None:
    results = [
        evaluate(job.setup.training, job.setup.server, initial_state(job.setup))
        for job in (job_of(llama, 1, 12, 3), job_of(llama, 16, 12, 3))
    ]
    # the same float32 values, summed over other pieces
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-6)
    assert results[0].accuracy == results[1].accuracy


@pytest.mark.slow("a training step over logits of 5 GB")
def test_a_large_vocabularys_logits_are_never_all_there(tmp_path: Path) -> None:
    tokens, vocabulary = 2048, 152_000
    model = language_model(tmp_path / "model", vocabulary, tokens)
    part = load_server_part(model, "causal-lm", 1, AdapterSpec(rank=2, alpha=2.0), classes=0)
    rows = part.adapted.initial_row(0)[None].requires_grad_()
    activation = torch.randn(4, tokens, 32)
    labels = torch.randint(0, vocabulary, (4, tokens))
    with LiveBytes() as training:
        server_pass(part, rows, [4], activation, None, labels, [1.0])
    assert training.peak < 320 * MIB
    # the blocks, 32 wide, keep little beside the pieces of the logits
    assert part.logits_bytes(4 * tokens) == 256 * MIB


def test_a_server_holds_an_adapter_a_device_and_passes_for_a_group(vision: Folders) -> None:
    """Three devices: adapters, optimiser states, and what their shared pass holds."""
    job = prepare(tiny.config(*vision, codec="none", optimizer={"name": "adamw"}))
    simulation = replace(job.setup.simulation, group=1)
    setup = replace(job.setup, simulation=simulation)
    alone = measure_memory(setup, initial_state(setup)).server
    server, device = job.memory.server, job.memory.device
    row = 4 * job.setup.server.part.adapted.layout.parameters
    assert server.weights == sum(part.adapted.bytes for part in job.setup.parts)
    # as the round began, while it goes on, and what devices hand in
    assert server.adapters == 4 * row + 4 * device.adapters == alone.adapters
    assert server.optimizer == alone.optimizer >= 2 * 3 * 2 * row
    # a copy of each row in the pass, its gradient, and what is collected
    assert server.gradients == 3 * 3 * row == 3 * alone.gradients
    assert server.activations == 3 * alone.activations > 0
    assert server.input == 3 * alone.input > 0


def test_what_a_servers_pass_holds_is_what_was_counted(llama: Folders) -> None:
    job = job_of(llama, 4, 12, 3)
    setup, state = job.setup, initial_state(job.setup)
    batches = [each.batch(each.indices(1, 0)) for each in setup.devices]
    group = group_inputs(batches)
    activation = torch.randn(sum(group.sizes), 12, setup.simulation.model.width)
    labels = torch.cat([torch.from_numpy(batch.labels) for batch in batches])
    rows = state.server.row.repeat(3, 1).requires_grad_()
    with LiveBytes() as live:
        server_pass(
            setup.server.part, rows, group.sizes, activation, group.lengths, labels, [1.0] * 3
        )
    # the copies of the rows are there before
    counted = job.memory.server.activations + job.memory.server.gradients // 3
    # what operations need in passing is not counted
    assert 0.7 * live.peak < counted < live.peak


def test_a_server_that_checkpoints_keeps_less_and_trains_the_same(llama: Folders) -> None:
    jobs = [
        prepare(
            tiny.config(
                *llama,
                training={"rounds": 1, "local_steps": 1, "batch_size": 16},
                devices={"memory_mib": None},
                server={"activation_memory": policy},
            )
        )
        for policy in ("keep", "checkpoint")
    ]
    kept, less = (job.memory.server.activations for job in jobs)
    assert less < kept
    outcomes = [Round(job.setup, initial_state(job.setup)).play() for job in jobs]
    for side in ("device", "server"):
        rows = [getattr(outcome.state, side).row for outcome in outcomes]
        assert torch.equal(*rows)
    keeping, checkpointing = (outcome.timeline.delay_s for outcome in outcomes)
    assert checkpointing > keeping


def test_one_after_the_other_needs_one_pass(vision: Folders) -> None:
    for scheme in ("splitlora", "sl"):
        setup = prepare(tiny.config(*vision, scheme=scheme)).setup
        assert setup.simulation.group == 8
        assert setup.together == 1


def test_a_server_that_merges_holds_all_adapters(vision: Folders) -> None:
    memory = prepare(tiny.config(*vision, scheme="fl-lora", devices={"memory_mib": None})).memory
    assert memory.server.weights == memory.device.weights
    assert memory.server.adapters == 4 * memory.device.adapters
    assert memory.server.total == memory.server.weights + memory.server.adapters


def test_devices_whose_activations_are_many_share_no_pass(llama: Folders) -> None:
    memory = job_of(llama, 4, 12, 3).memory
    assert memory.served is not None and memory.fitting(8, None) == 8
    received = 2 * memory.served.received
    batch = memory.served.shape.batch
    logits = memory.served.part.logits_bytes(batch.samples * batch.tokens)
    for times in (1, 2, 3, 5):
        both = MOST_PASS_BYTES // times - received - logits
        own = replace(memory.device, activations=both // 4)
        larger = replace(memory.served, kept=both - both // 4)
        assert replace(memory, device=own, served=larger).fitting(8, None) == times
    alone = replace(memory, device=replace(memory.device, activations=MOST_PASS_BYTES + 1))
    assert alone.fitting(8, None) == 1
    # a server's own limit says how much there is
    assert alone.fitting(8, memory.served.of(5).total) == 5


def test_as_many_devices_share_a_pass_as_the_server_has_memory_for(vision: Folders) -> None:
    job = prepare(tiny.config(*vision))
    served = job.memory.served
    assert served is not None and job.setup.together == 3
    two, one = (served.of(together).total for together in (2, 1))

    def with_limit(limit_bytes: float, **server: str) -> Job:
        return prepare(tiny.config(*vision, server={"memory_mib": limit_bytes / MIB} | server))

    less = with_limit(two)
    assert less.setup.together == 2 and less.memory.server.total == two
    assert with_limit(one).setup.together == 1
    told = r"\(server.memory_mib\), training needs .* with 1 of the mini-batches in a pass"
    with pytest.raises(ConfigError, match=told):
        with_limit(one - 1)
    remedy = r": set server.activation_memory to checkpoint, or lower training.batch_size, adapter"
    with pytest.raises(ConfigError, match=remedy):
        with_limit(one - 1)
    with pytest.raises(ConfigError, match=r": lower server\.batch_tokens, training\.batch_size"):
        with_limit(one / 4, activation_memory="checkpoint", batch="arrivals")
    with pytest.raises(ConfigError, match=r"without any mini-batch, short by"):
        with_limit(0.9 * job.memory.server.weights)


def test_a_networked_server_passes_for_one_device(vision: Folders) -> None:
    job = prepare(tiny.config(*vision), dealt=False)
    assert job.setup.simulation.group == 1
    row = 4 * job.setup.server.part.adapted.layout.parameters
    assert job.memory.server.gradients == 3 * row


def test_measuring_takes_no_more_than_training(vision: Folders) -> None:
    peaks, figures = [], []
    for micro_batches in (1, 8):
        training = {"batch_size": 16, "micro_batches": micro_batches}
        job = prepare(tiny.config(*vision, training=training))
        state = initial_state(job.setup)
        with LiveBytes() as live:
            figures.append(measure_memory(job.setup, state).unsplit_bytes)
        peaks.append(live.peak)
    assert peaks[1] < 0.4 * peaks[0]
    # what does not grow with the samples is little
    assert figures[1] == pytest.approx(figures[0], rel=0.05)
