"""The three things that run (device part, server part, whole model), and what a device keeps.

Each takes the rows of a group of devices and the samples of all of them in device order, and moves
what it is given to where it is. One pass at a time; backward may follow at any time, and any number
of micro-batches may be pending at once.
What a part has (rows, layout, weights) is its `adapted` model. Knows no files, no loss, no codec
and no optimiser.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, final

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cutlayer.errors import ModelError
from cutlayer.model.adapted import AdaptedModel
from cutlayer.model.blocks import CutReachedError, Injection, answering
from cutlayer.model.inputs import real_inputs, stand_in_inputs
from cutlayer.model.lora import Dropping
from cutlayer.model.losses import group_losses, head_losses
from cutlayer.model.placement import all_to_device, to_device
from cutlayer.spec import MOST_LOGITS, ActivationPolicy, Task, Trained


@final
class DevicePart:
    """The embedding and blocks 1..cut of a model."""

    def __init__(self, adapted: AdaptedModel, task: Task, cut: int) -> None:
        self.task = task
        self.cut = cut
        self.adapted = adapted

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        inputs: Mapping[str, Tensor],
        *,
        checkpoint: bool = False,
    ) -> Float[Tensor, "batch token width"]:
        """The activation at the cut; the first `sizes[0]` samples are of the device in `rows[0]`.

        `checkpoint`: hold each block's input for backward, not what is computed in it.

        `inputs`: `pixel_values` [batch, channel, height, width], of any size that the patch
        divides; or `input_ids` [batch, token] with `attention_mask` unless nothing is padded, or
        with `position_ids` of packed rows. Text is padded on the right, in a group to the longest
        of all its devices.
        Raises ModelError for inputs or sizes that do not fit.
        """
        model, device = self.adapted.model, self.adapted.device
        documents_by = self.adapted.documents_by
        given = all_to_device(real_inputs(model, self.task, inputs, None, documents_by), device)
        batch = next(iter(inputs.values())).shape[0]
        with self.adapted.using(to_device(rows, device), sizes, batch, checkpoint=checkpoint):
            try:
                model(**given)
            except CutReachedError as cut:
                return cut.activation
        raise RuntimeError("the forward pass ended without reaching the cut layer")


@final
class ServerPart:
    """Blocks cut+1..L, final norm and head of a model.

    `activation_memory`: CHECKPOINT keeps each block's input for backward, which runs the block
    again. Everything else keeps all. `label_smoothing`: of the losses, as `group_losses` takes it.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        task: Task,
        cut: int,
        injection: Injection,
        activation_memory: ActivationPolicy = ActivationPolicy.KEEP,
        label_smoothing: float = 0.0,
    ) -> None:
        self.task = task
        self.cut = cut
        self.adapted = adapted
        self._injection = injection
        self.activation_memory = activation_memory
        self.label_smoothing = label_smoothing

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        activation: Float[Tensor, "batch token width"],
        lengths: Sequence[int] | None,
        documents: Sequence[Sequence[int]] | None = None,
    ) -> Float[Tensor, "batch *rest"]:
        """Logits [batch, class], or [batch, token, vocabulary] of a language model.

        `lengths`: real tokens of each sample (None: nothing is padded, or images). `documents`: of
        packed rows, the lengths of those in each, which do not see each other. The activation may
        require a gradient, from which the device's backward continues.
        Raises ModelError for lengths, documents or sizes that do not fit.
        """
        checkpoint = self.activation_memory is ActivationPolicy.CHECKPOINT
        return self._run(rows, sizes, activation, lengths, documents, checkpoint=checkpoint)

    def losses(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        activation: Float[Tensor, "batch token width"],
        lengths: Sequence[int] | None,
        labels: Int[Tensor, "batch *token"],
        weights: Sequence[float],
        documents: Sequence[Sequence[int]] | None = None,
        *,
        most_logits: int = MOST_LOGITS,
    ) -> Float32[Tensor, "group"]:
        """Each device's mean loss over its own samples times its weight [nat]; backward of their
        sum gives each device the gradient that it would have alone.

        A language model has more logits than `most_logits` a few tokens at a time: never all of
        them, nor all of their gradient. Otherwise as `forward`, and raises as it does.
        """
        batch, tokens, width = activation.shape
        labels = to_device(labels, self.adapted.device)
        if not self._in_pieces(batch * tokens, most_logits):
            logits = self.forward(rows, sizes, activation, lengths, documents)
            losses = group_losses(self.task, logits, labels, sizes, self.label_smoothing)
            return losses * to_device(torch.tensor(weights, dtype=losses.dtype), losses.device)
        hidden = self.before_head(rows, sizes, activation, lengths, documents)
        head = partial(self._logits_of, rows[:1].detach(), width)
        most = max(1, most_logits // self._vocabulary)
        return head_losses(hidden, labels, sizes, weights, head, most, self.label_smoothing)

    def before_head(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        activation: Float[Tensor, "batch token width"],
        lengths: Sequence[int] | None,
        documents: Sequence[Sequence[int]] | None = None,
    ) -> Float[Tensor, "batch token width"]:
        """What a language model's head is given; arguments as `forward` takes them."""
        head: nn.Module = self.adapted.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        with answering(head, _stop):
            try:
                self.forward(rows, sizes, activation, lengths, documents)
            except CutReachedError as reached:
                return reached.activation
        raise RuntimeError("the forward pass ended without reaching the head")

    def logits_bytes(self, tokens: int) -> int:
        """What logits of so many tokens and their gradient take at a time, and the gradient of the
        hidden states where logits come in pieces; 0 of a classifier, whose logits are few."""
        if not self._in_pieces(tokens, MOST_LOGITS):
            return 2 * torch.float32.itemsize * tokens * self._vocabulary
        model = self.adapted.model
        hidden = tokens * int(model.config.hidden_size) * model.dtype.itemsize
        return 2 * torch.float32.itemsize * MOST_LOGITS + hidden

    def token_logits(
        self,
        row: Float[Tensor, "parameter"],
        activation: Float[Tensor, "batch token width"],
        lengths: Sequence[int] | None,
        most: int,
        documents: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Float[Tensor, "token vocabulary"]]:
        """A language model's logits for one device, sample after sample, `most` tokens at a time.

        What the model does after its blocks runs once for each piece, so all logits are never
        there together. Equal to those of `forward` but for rounding. Raises as it does.
        """
        rows = row[None]
        hidden = self.before_head(rows, [activation.shape[0]], activation, lengths, documents)
        for piece in torch.split(hidden.flatten(0, 1), most):
            yield self._logits_of(rows, activation.shape[2], piece)

    def _run(
        self,
        rows: Tensor,
        sizes: Sequence[int],
        activation: Tensor,
        lengths: Sequence[int] | None,
        documents: Sequence[Sequence[int]] | None = None,
        *,
        checkpoint: bool,
    ) -> Tensor:
        model, device = self.adapted.model, self.adapted.device
        # what crosses the cut is float32
        activation = to_device(activation, device).to(model.dtype)
        given = stand_in_inputs(
            model.config,
            self.task,
            activation,
            lengths,
            documents,
            free_tokens=self.adapted.free_tokens,
            documents_by=self.adapted.documents_by,
        )
        with (
            self.adapted.using(
                to_device(rows, device), sizes, activation.shape[0], checkpoint=checkpoint
            ),
            self._injection.of(activation),
        ):
            logits: Tensor = model(**given).logits
        return logits

    def _in_pieces(self, tokens: int, most_logits: int) -> bool:
        """Whether logits of so many tokens come a few at a time."""
        # where all weights are trained, the head's are too
        frozen = self.adapted.trained is Trained.ADAPTERS
        return frozen and tokens * self._vocabulary > most_logits

    @property
    def _vocabulary(self) -> int:
        """Logits of a token; 0 where there is one set of them a sample, which are few."""
        return int(self.adapted.model.config.vocab_size) if self.task == "causal-lm" else 0

    def _logits_of(
        self, rows: Float[Tensor, "one parameter"], width: int, hidden: Float[Tensor, "token given"]
    ) -> Float[Tensor, "token vocabulary"]:
        """The head on these hidden states, and what the model does with its logits; `width`: of the
        blocks."""
        head: nn.Module = self.adapted.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        run: Callable[[Tensor], Tensor] = head.forward
        one = hidden.new_zeros(1, 1, width)
        with (
            self.adapted.without_blocks(),
            answering(head, lambda _: run(hidden[None])),
        ):
            return self._run(rows, [1], one, None, checkpoint=False).flatten(0, 1)


@final
class WholeModel:
    """The unsplit model with the same adapters: a reference, and a centralised run."""

    def __init__(self, adapted: AdaptedModel, task: Task) -> None:
        self.task = task
        self.adapted = adapted

    def forward(
        self,
        rows: Float[Tensor, "group parameter"],
        sizes: Sequence[int],
        inputs: Mapping[str, Tensor],
        lengths: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch *rest"]:
        """Logits as `ServerPart.forward` gives them, from inputs as `DevicePart.forward` takes
        them; `lengths` says what is padded if `inputs` has no `attention_mask`.

        A decoder's classifier takes the last token that is not the padding token, as transformers
        has it; `ServerPart` takes the last of `lengths`. They differ for a text that itself ends
        with the padding token: a run leaves such an end out (`TextBatches.unread`).
        """
        model, device = self.adapted.model, self.adapted.device
        documents_by = self.adapted.documents_by
        given = all_to_device(real_inputs(model, self.task, inputs, lengths, documents_by), device)
        batch = next(iter(inputs.values())).shape[0]
        with self.adapted.using(to_device(rows, device), sizes, batch):
            logits: Tensor = model(**given).logits
        return logits

    def token_logits(
        self, row: Float[Tensor, "parameter"], inputs: Mapping[str, Tensor], most: int
    ) -> Iterator[Float[Tensor, "token vocabulary"]]:
        """A language model's logits, `most` tokens at a time, as `ServerPart.token_logits` has
        them; inputs as `forward` takes them."""
        head: nn.Module = self.adapted.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        batch = inputs["input_ids"].shape[0]
        with answering(head, _stop):
            try:
                self.forward(row[None], [batch], inputs)
            except CutReachedError as reached:
                hidden = reached.activation
        for piece in torch.split(hidden.flatten(0, 1), most):
            yield self._logits_of(row[None], head, piece)

    def _logits_of(
        self, rows: Float[Tensor, "one parameter"], head: nn.Module, hidden: Tensor
    ) -> Float[Tensor, "token vocabulary"]:
        """The head on these hidden states, and what the model does with its logits."""
        run: Callable[[Tensor], Tensor] = head.forward
        one = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
        with self.adapted.without_blocks(), answering(head, lambda _: run(hidden[None])):
            return self.forward(rows, [1], one).flatten(0, 1)


def _stop(hidden: Tensor) -> NoReturn:
    raise CutReachedError(hidden)


@final
class Pending:
    """A mini-batch, or micro-batch, whose gradient has not come yet.

    `shape`: of the activation, [batch, token, width]; known after it was released too. `backward`
    None: the part is frozen, and none comes.
    """

    def __init__(
        self,
        activation: Float[Tensor, "batch token width"],
        backward: Callable[[Tensor], None] | None,
    ) -> None:
        self._activation: Tensor | None = activation.detach().float()
        self._dtype = activation.dtype
        self._device = activation.device
        self.shape = activation.shape
        self._backward: Callable[[Tensor], None] | None = backward

    @property
    def activation(self) -> Float32[Tensor, "batch token width"]:
        """The activation at the cut, without a graph. Raises RuntimeError once it is released."""
        if self._activation is None:
            raise RuntimeError("the activation was released; read it before that")
        return self._activation

    def release(self) -> None:
        """Drop the activation, when it has been encoded: backward does not need it."""
        self._activation = None

    def backward(self, gradient: Float[Tensor, "batch token width"]) -> None:
        """Add the adapters' gradient to `rows.grad`, given that of the activation.

        Raises RuntimeError if it was called before, if the part is frozen, or if rows or inputs
        were changed in place since the forward.
        """
        if self._backward is None:
            raise RuntimeError(
                "this micro-batch has had its backward, or has none; run its forward again"
            )
        backward, self._backward = self._backward, None
        backward(to_device(gradient, self._device).to(self._dtype))


def device_forward(
    part: DevicePart,
    rows: Float32[Tensor, "group parameter"],
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
    activation_memory: ActivationPolicy,
    dropping: Dropping | None = None,
) -> Pending:
    """A device's forward now, its backward when the gradient has come; rows, sizes and inputs as
    `DevicePart.forward` takes them. Every policy gives the same gradient; they trade bytes for a
    second forward.

    `rows`: a leaf that requires a gradient; it collects that of every micro-batch run with it, and
    must not change until the last one's backward. `dropping`: of the adapters' inputs, the same
    each time that something runs again. `activation_memory`, what is kept until backward:

    - KEEP: all that autograd saves. The least computation.
    - CHECKPOINT: the input of each block; backward runs each block again and holds one at a time.
    - RECOMPUTE: nothing but `inputs`; backward runs the whole part again and holds all of it.

    Raises ModelError for rows, inputs or sizes that do not fit.
    """
    if not (rows.requires_grad and rows.is_leaf):
        raise ModelError(
            "the rows are no leaf that requires a gradient; give rows.requires_grad_(), or call "
            "frozen_forward if nothing is to be trained"
        )
    if activation_memory is ActivationPolicy.RECOMPUTE:
        return _recomputed(part, rows, sizes, inputs, dropping)
    checkpoint = activation_memory is ActivationPolicy.CHECKPOINT
    with part.adapted.dropping(dropping):
        return _kept(part.forward(rows, sizes, inputs, checkpoint=checkpoint), rows)


@torch.no_grad()
def frozen_forward(
    part: DevicePart,
    rows: Float32[Tensor, "group parameter"],
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
) -> Pending:
    """A device's forward where its part is frozen: no graph, and no backward; nothing is dropped of
    adapters' inputs. Raises as `DevicePart.forward`."""
    return Pending(part.forward(rows, sizes, inputs), None)


@dataclass(frozen=True)
class MicroBatchBytes:
    """What one micro-batch makes a device hold beyond weights, rows and inputs [bytes].

    `waiting`: from forward to backward. `peak`: the most at any time. So of n equal ones in flight
    the peak is `(n - 1) waiting + peak`. The activation on its way to the server is not among them.
    """

    waiting: int
    peak: int

    def in_flight(self, micro_batches: int) -> int:
        """The peak with so many equal micro-batches pending at once."""
        return (micro_batches - 1) * self.waiting + self.peak


def measure_micro_batch(
    part: DevicePart,
    rows: Float32[Tensor, "group parameter"],
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
    activation_memory: ActivationPolicy,
    dropping: Dropping | None = None,
) -> MicroBatchBytes:
    """Run one micro-batch forward and backward and count what autograd holds; `rows` stay as they
    are. Raises what `device_forward` raises."""
    device = part.adapted.device
    leaf = to_device(rows.detach(), device).clone().requires_grad_()
    inputs = all_to_device(inputs, device)
    excluded = [*part.adapted.tensors, leaf, *inputs.values()]
    with SavedBytes(excluded) as saved:
        pending = device_forward(part, leaf, sizes, inputs, activation_memory, dropping)
        waiting = saved.bytes
        pending.backward(torch.zeros(pending.shape))
    return MicroBatchBytes(waiting, saved.peak)


def _kept(activation: Tensor, rows: Tensor) -> Pending:
    # the place in the graph and not the activation, whose bytes backward does not need
    edge = get_gradient_edge(activation)
    return Pending(activation, lambda gradient: _accumulate(edge, rows, gradient))


def _recomputed(
    part: DevicePart,
    rows: Tensor,
    sizes: Sequence[int],
    inputs: Mapping[str, Tensor],
    dropping: Dropping | None,
) -> Pending:
    with torch.no_grad(), part.adapted.dropping(dropping):
        activation = part.forward(rows, sizes, inputs)
    read = (rows, *inputs.values())
    versions = [tensor._version for tensor in read]

    def backward(gradient: Tensor) -> None:
        # autograd sees to this where it holds the tensors itself
        if versions != [tensor._version for tensor in read]:
            raise RuntimeError("rows or inputs were changed in place between forward and backward")
        with part.adapted.dropping(dropping):
            activation = part.forward(rows, sizes, inputs)
        _accumulate(get_gradient_edge(activation), rows, gradient)

    return Pending(activation, backward)


def _accumulate(edge: torch.autograd.graph.GradientEdge, rows: Tensor, gradient: Tensor) -> None:
    (found,) = torch.autograd.grad(edge, rows, gradient)
    rows.grad = found if rows.grad is None else rows.grad.add_(found)


@final
class SavedBytes:
    """Counts the bytes that a forward leaves behind for backward.

    `with SavedBytes(part.adapted.tensors) as saved: activation = part.forward(...)`, then
    `saved.bytes`: distinct storages still held when the block ends, in full, without those of
    `exclude` (frozen weights and adapter rows, which are there anyway). Storages, not tensors:
    a saved view keeps all of what it views. `saved.peak`: the most that was held at any time in
    the block, which may hold backward too.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        self._excluded = {_address(tensor) for tensor in exclude}
        self._count: dict[int, int] = {}  # saved tensors of each storage
        self._now = 0
        self._peak = 0
        self._hooks = saved_tensors_hooks(self._pack, lambda held: held.tensor)
        self._bytes: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes held; inside the block, at this moment."""
        return self._now if self._bytes is None else self._bytes

    @property
    def peak(self) -> int:
        """The most bytes held at any time inside the block so far."""
        return self._peak

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, value, trace)
        self._bytes = self._now

    def _pack(self, tensor: Tensor) -> "_SavedTensor":
        held = _SavedTensor(tensor.detach())
        address, size = _address(tensor), tensor.untyped_storage().nbytes()
        if address not in self._excluded:
            weakref.finalize(held, self._drop, address, size)
            self._count[address] = self._count.get(address, 0) + 1
            if self._count[address] == 1:
                self._now += size
                self._peak = max(self._peak, self._now)
        return held

    def _drop(self, address: int, size: int) -> None:
        self._count[address] -= 1
        if not self._count[address]:
            del self._count[address]
            self._now -= size


@final
class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are there while what is run within makes and drops them: of
    distinct storages, in full, without those of `exclude`. `peak`: the most at any time."""

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._excluded = {_address(tensor) for tensor in exclude}
        self._count: dict[int, int] = {}  # tensors of each storage
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        kinds: Sequence[type],
        args: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        made = function(*args, **(named or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._enter(tensor)
        return made

    def _enter(self, tensor: Tensor) -> None:
        address, size = _address(tensor), tensor.untyped_storage().nbytes()
        if address in self._excluded or not size:
            return
        weakref.finalize(tensor, self._drop, address, size)
        self._count[address] = self._count.get(address, 0) + 1
        if self._count[address] == 1:
            self._now += size
            self.peak = max(self.peak, self._now)

    def _drop(self, address: int, size: int) -> None:
        self._count[address] -= 1
        if not self._count[address]:
            del self._count[address]
            self._now -= size


@final
class _SavedTensor:
    """What autograd keeps in place of a saved tensor; it dies with the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
