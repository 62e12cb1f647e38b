"""What autograd keeps of each part of a model, as a closed form in samples and tokens.

Counted and not derived: three blocks run once on fake tensors, which have shapes and storages but
no memory, so each architecture's own code says what it keeps, whatever its norms, gates and
attention. The numbers of samples and of tokens are large primes: which of them divide the size of
a storage tells how it grows. Holds for torch's CPU kernels. Knows no cut.
"""

import copy
import inspect
import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import meta_device_safe_creation_ops

from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.blocks import Anatomy, answer_always
from cutlayer.model.described import AdapterSpec
from cutlayer.model.inputs import channels, patch_sides, real_inputs, token_limit
from cutlayer.model.tasks import is_decoder, task_class
from cutlayer.spec import Activations, BatchBytes, BlockBytes, Task

# where in a forward autograd saves what: before the blocks, in each of three, after them
PLACES = ("before", "first", "second", "served", "after")
BEFORE, FIRST, SECOND, SERVED, AFTER = PLACES

_SAMPLES = 1009
_MOST_TOKENS = 1013
_FEWEST_PATCHES = 101  # along a side
_BLOCKS = 3
# a text's ids and mask, int64
_TEXT_INPUT_BYTES = 16
# operations of attention's backward over its forward's: a fused kernel computes its matrix again
_FUSED, _PLAIN = 2.5, 2.0


@dataclass(frozen=True)
class Counted:
    """What `ModelSpec` says of these, found by running the model with its adapters in place."""

    activations: Activations
    embedding_adapter_parameters: int
    head_adapter_parameters: int
    attention_backward: float
    first_attention_trained: bool


def count_activations(
    config: PreTrainedConfig,
    task: Task,
    anatomy: Anatomy,
    adapter: AdapterSpec,
    *,
    free_tokens: int,
    dtype: torch.dtype,
    padded: bool,
) -> Counted:
    """What a model of this configuration keeps with these adapters on a base of `dtype`.

    `free_tokens`: those of an image that are no patches. `padded`: texts of different lengths,
    whose mask attention keeps too. Blocks are taken to be alike: where they alternate (sliding
    windows), all for the second one. `adapter` is that of the first three.
    """
    run = _ShortRun.of(config, task, anatomy, adapter, free_tokens, dtype, padded)
    kept, trained, adapted = run.kept, run.trained, run.adapted
    second = kept.block(SECOND)
    activations = Activations(
        inputs=run.sample.inputs,
        embedding=kept.whole(BEFORE),
        first_block=kept.block(FIRST),
        block=second,
        served_block=run.served(anatomy),
        head=kept.whole(AFTER),
    )
    fused = trained is not None
    return Counted(
        activations,
        _slots_in(adapted, anatomy.before),
        _slots_in(adapted, anatomy.head),
        _FUSED if fused else _PLAIN,
        bool(trained) or (not fused and kept.whole(FIRST).token_pair > 0),
    )


def count_block(
    config: PreTrainedConfig,
    task: Task,
    anatomy: Anatomy,
    adapter: AdapterSpec,
    *,
    free_tokens: int,
    dtype: torch.dtype,
    padded: bool,
) -> tuple[BlockBytes, BlockBytes]:
    """What a block with the adapters of the second and third keeps, and as the server's first;
    arguments as `count_activations` takes them."""
    run = _ShortRun.of(config, task, anatomy, adapter, free_tokens, dtype, padded)
    return run.kept.block(SECOND), run.served(anatomy)


@dataclass(frozen=True, eq=False)
class _ShortRun:
    """One forward of a short model, and what it kept; `trained`: as `_run` says."""

    adapted: AdaptedModel
    sample: "_Sample"
    kept: "_KeptForms"
    trained: bool | None

    @staticmethod
    def of(
        config: PreTrainedConfig,
        task: Task,
        anatomy: Anatomy,
        adapter: AdapterSpec,
        free_tokens: int,
        dtype: torch.dtype,
        padded: bool,
    ) -> "_ShortRun":
        """Arguments as `count_activations` takes them."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        model = _short_model(config, task, anatomy, dtype, mode)
        with mode:
            adapted = AdaptedModel(model, anatomy, adapter, {}, patches=True, head=True)
            image = task == "image-classification"
            sample = _images(model, free_tokens) if image else _texts(model, padded=padded)
            try:
                kept, trained = _run(adapted, anatomy, sample)
            except Exception:
                # blocks that ask a cache for more than keys and values do not wait for one; an
                # embedding that takes images of one size alone, or looks at values, keeps nothing
                if (padded and not image) or adapter.patch_embedding:
                    raise
                if image:
                    sample = _without_embedding(model, anatomy, sample)
                else:
                    sample = _texts(model, padded=True)
                kept, trained = _run(adapted, anatomy, sample)
        return _ShortRun(adapted, sample, kept, trained)

    def served(self, anatomy: Anatomy) -> BlockBytes:
        """Of the server's first block; a model of two has no third."""
        return self.kept.block(SERVED if anatomy.count >= _BLOCKS else SECOND)


@dataclass(frozen=True)
class _Sample:
    """A fake mini-batch of prime numbers; `free` tokens are no patches (0 for texts)."""

    given: dict[str, Any]
    tokens: int
    free: int
    inputs: BatchBytes

    def form(self, size: int) -> BatchBytes:
        """How a storage of `size` bytes grows, by what divides it."""
        each, rest = divmod(size, _SAMPLES)
        if rest:
            fixed, position, position_pair = self._by_tokens(size)
            return BatchBytes(fixed, position, position_pair)
        return BatchBytes(0.0, 0.0, 0.0, *self._by_tokens(each))

    def _by_tokens(self, size: int) -> tuple[float, float, float]:
        """`size` as a polynomial of the tokens: constant, linear, square."""
        if size % self.tokens**2 == 0:
            return 0.0, 0.0, size / self.tokens**2
        if size % self.tokens == 0:
            return 0.0, size / self.tokens, 0.0
        patches = self.tokens - self.free
        if self.free and size % patches == 0:
            return -self.free * size / patches, size / patches, 0.0
        return float(size), 0.0, 0.0


def _short_model(
    config: PreTrainedConfig,
    task: Task,
    anatomy: Anatomy,
    dtype: torch.dtype,
    mode: FakeTensorMode,
) -> PreTrainedModel:
    """The model with its first blocks alone, and the attention that loading it gives."""
    with torch.device("meta"), meta_device_safe_creation_ops():
        model = task_class(config, task)(copy.deepcopy(config))
    blocks = model.get_submodule(anatomy.blocks)
    assert isinstance(blocks, nn.ModuleList)
    model.set_submodule(anatomy.blocks, blocks[:_BLOCKS])
    model.train(False)
    for parameter in model.parameters():  # buffers keep their type, as when a model is loaded
        parameter.data = parameter.data.to(dtype)
    with mode:
        model.to_empty(device="cpu")
    return model


def _texts(model: PreTrainedModel, *, padded: bool) -> _Sample:
    tokens = min(_MOST_TOKENS, token_limit(model.config) or _MOST_TOKENS)
    while not _is_prime(tokens):
        tokens -= 1
    ids = torch.zeros(_SAMPLES, tokens, dtype=torch.long)
    given: dict[str, Any] = {"input_ids": ids}
    if padded:
        given["attention_mask"] = torch.ones_like(ids)
    elif is_decoder(model.config):
        given[_cache_argument(model)] = _NoCache()
    return _Sample(given, tokens, 0, BatchBytes(token=_TEXT_INPUT_BYTES))


def _cache_argument(model: PreTrainedModel) -> str:
    """What a decoder calls its cache: transformers renamed it in 5.24."""
    taken = inspect.signature(model.forward).parameters
    return "cache" if "cache" in taken else "past_key_values"


class _NoCache:
    """Told of keys and values, and gives them back.

    A decoder without mask and without cache looks for several texts packed into one, at values
    that a fake tensor has not; with it, it takes the way that unpadded texts take.
    """

    is_compileable = False

    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    def get_query_offset(self, layer: int = 0) -> int:
        return 0

    def get_mask_sizes(self, queries: int, layer: int) -> tuple[int, int]:
        return queries, 0

    def update(self, key: Tensor, value: Tensor, *place: Any, **more: Any) -> tuple[Tensor, Tensor]:
        return key, value


def _images(model: PreTrainedModel, free: int) -> _Sample:
    side = _FEWEST_PATCHES  # prime, which does if every token is a patch
    while free and not _is_prime(side**2 + free):
        side += 1
    height, width = (side * length for length in patch_sides(model.config))
    pixels = torch.zeros(_SAMPLES, channels(model.config), height, width)
    each = pixels.nbytes / (_SAMPLES * side**2)
    return _Sample(
        real_inputs(model, "image-classification", {"pixel_values": pixels}, None),
        side**2 + free,
        free,
        BatchBytes(sample=-each * free, token=each),
    )


def _without_embedding(model: PreTrainedModel, anatomy: Anatomy, sample: _Sample) -> _Sample:
    """The same sample for a model whose embedding answers as if it had run."""
    hidden = torch.zeros(_SAMPLES, sample.tokens, anatomy.width, dtype=model.dtype)
    for unit in anatomy.before:
        answer_always(model.get_submodule(unit), lambda: hidden)
    return replace(sample, given={"pixel_values": sample.given["pixel_values"]})


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


@final
class _AllKept:
    """A mask, as there is one where adapters drop some of their inputs."""

    def kept(
        self, name: str, shape: tuple[int, ...], probability: float
    ) -> Bool[Tensor, "sample *shape"]:
        return torch.ones(_SAMPLES, *shape, dtype=torch.bool)


@final
class _KeptForms:
    """What each place of a forward keeps."""

    def __init__(self) -> None:
        self._whole = dict.fromkeys(PLACES, BatchBytes())
        self._beyond = dict.fromkeys(PLACES, BatchBytes())

    def add(self, place: str, form: BatchBytes, *, is_input: bool) -> None:
        self._whole[place] += form
        if not is_input:
            self._beyond[place] += form

    def whole(self, place: str) -> BatchBytes:
        return self._whole[place]

    def block(self, place: str) -> BlockBytes:
        return BlockBytes(self._whole[place], self._beyond[place])


def _run(
    adapted: AdaptedModel, anatomy: Anatomy, sample: _Sample
) -> tuple[_KeptForms, bool | None]:
    """One forward; also whether the first attention is trained (None: it is not fused)."""
    rows = torch.zeros(1, adapted.layout.parameters, requires_grad=True)
    watch, attention, kept = SaveWatch(), AttentionWatch(), _KeptForms()
    with (
        watching(adapted.model.get_submodule(anatomy.blocks), watch),
        adapted.dropping(_AllKept()),
        adapted.using(rows, [_SAMPLES], _SAMPLES),
        saved_tensors_hooks(watch.pack, lambda held: held.tensor),
        attention,
        GroupedProducts(),  # type: ignore[no-untyped-call]
    ):
        output = adapted.model(**sample.given)
    there_anyway = (*adapted.tensors, rows, *sample.given.values())
    tensors = [value for value in there_anyway if isinstance(value, Tensor)]
    for place, is_input, size in watch.storages(tensors):
        kept.add(place, sample.form(size), is_input=is_input)
    del output  # the graph lives until here
    return kept, attention.trained


def _slots_in(adapted: AdaptedModel, units: tuple[str, ...]) -> int:
    """Adapter parameters within these modules."""
    return sum(
        slot.parameters
        for slot in adapted.layout.slots
        if any(slot.name.startswith(f"{unit}.") for unit in units)
    )


@final
class _Kept:
    """What autograd keeps in place of a saved tensor; it dies with the graph."""

    def __init__(self, tensor: Tensor, place: str) -> None:
        self.tensor = tensor
        self.place = place

    @property
    def storage(self) -> int:
        return _storage(self.tensor)


@final
class SaveWatch:
    """Where a forward is, and what it has saved where: of real and of fake tensors.

    At the third block the hidden states become a leaf, as on a server: what is before and after is
    then kept by two sides, so each counts what they share.
    """

    def __init__(self) -> None:
        self._place = BEFORE
        self._inputs: dict[str, int] = {}
        self._saved: list[weakref.ref[_Kept]] = []
        self._cut: Tensor | None = None

    def pack(self, tensor: Tensor) -> _Kept:
        """The hook that autograd calls for each tensor it saves."""
        kept = _Kept(tensor.detach(), self._place)
        self._saved.append(weakref.ref(kept))
        return kept

    def enter(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The hook before each block; gives its arguments."""
        self._place = PLACES[PLACES.index(self._place) + 1]
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if self._place == SERVED:
            self._cut = hidden  # or the graph of the blocks before would die
            hidden = hidden.detach().requires_grad_()
        self._inputs[self._place] = _storage(hidden)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def end_blocks(self, block: nn.Module, args: object, output: object) -> None:
        """The hook after the last block."""
        self._place = AFTER

    def storages(self, excluded: Iterable[Tensor]) -> Iterator[tuple[str, bool, int]]:
        """Place, whether it is the block's own input, and bytes of each storage still held; once
        on either side, where it was saved first."""
        alone = {_storage(tensor) for tensor in excluded}
        seen: set[tuple[bool, int]] = set()
        for kept in filter(None, (ref() for ref in self._saved)):
            side = kept.place in (SERVED, AFTER), kept.storage
            if kept.storage not in alone and side not in seen:
                seen.add(side)
                is_input = kept.storage == self._inputs.get(kept.place)
                yield kept.place, is_input, kept.tensor.untyped_storage().nbytes()


@final
class AttentionWatch(TorchFunctionMode):
    """Whether the first fused attention has trained inputs; None if there was none."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: bool | None = None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.scaled_dot_product_attention and self.trained is None:
            self.trained = any(tensor.requires_grad for tensor in args[:3])
        return func(*args, **(kwargs or {}))


@final
class GroupedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives products of rows with their expert's weights a shape, in numbers of any kind: torch's
    own take bfloat16 alone where there are no values."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._grouped_mm.default:
            return args[0].new_empty(args[0].shape[0], args[1].shape[-1])
        return func(*args, **(kwargs or {}))


@contextmanager
def watching(blocks: nn.Module, watch: SaveWatch) -> Iterator[None]:
    """Tell `watch` of these blocks for the length of a forward."""
    found = list(blocks.children())
    handles = [block.register_forward_pre_hook(watch.enter, with_kwargs=True) for block in found]
    handles.append(found[-1].register_forward_hook(watch.end_blocks))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Tensor) -> int:
    # a fake tensor has no address, but a storage of its own
    return int(tensor.untyped_storage()._cdata)
