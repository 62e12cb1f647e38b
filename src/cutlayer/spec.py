"""The nouns: what a model, a device, a server, a link and a mini-batch are to the mathematics.

Plain values with units in their names. Knows no tensors: `model.describe` makes a `ModelSpec` from
a pretrained model, the configuration makes the rest.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Task: TypeAlias = Literal["image-classification", "text-classification", "causal-lm"]

# the label of a place that no loss counts, as in torch and transformers
IGNORED_LABEL = -100


@dataclass(frozen=True)
class LinearShape:
    """One linear layer of a block: `inputs -> outputs`, with a LoRA adapter of `rank` (0: none).

    `reads_block_input` marks those (query, key, value) with nothing trainable before them inside
    the block: in the very first block, autograd stops there.
    """

    inputs: int
    outputs: int
    rank: int = 0
    reads_block_input: bool = False

    @property
    def adapter_parameters(self) -> int:
        """Values in A (rank x inputs) and B (outputs x rank)."""
        return self.rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class ModelSpec:
    """A transformer's dimensions, as the cost models read them.

    All blocks are alike. `embedding` is what comes before the first block (on the devices), `head`
    what follows the last one: final norm, pooling, head (on the server); the head runs once a
    sample, or once a token for language modelling (`head_per_token`). `shared_parameters` are both
    embedding and head (tied), held by both sides and counted in both.
    """

    name: str
    blocks: int
    width: int
    heads: int
    head_width: int
    block_linears: tuple[LinearShape, ...]
    block_parameters: int
    embedding_parameters: int
    head_parameters: int
    classes: int
    head_per_token: bool = False
    shared_parameters: int = 0
    embedding_flops_per_token: int = 0
    bytes_per_value: int = 4

    @property
    def parameters(self) -> int:
        """Base parameters of the whole model, adapters not counted."""
        outside = self.embedding_parameters + self.head_parameters - self.shared_parameters
        return outside + self.blocks * self.block_parameters

    @property
    def block_adapter_parameters(self) -> int:
        """Adapter parameters of one block."""
        return sum(linear.adapter_parameters for linear in self.block_linears)


@dataclass(frozen=True)
class MiniBatch:
    """The shape of one local step's input: `samples` sequences of `tokens` tokens."""

    samples: int
    tokens: int


@dataclass(frozen=True)
class Device:
    """A device: compute rate, signal-to-noise ratio each way, memory (None: no limit)."""

    name: str
    flops_per_s: float
    uplink_snr_db: float
    downlink_snr_db: float
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Server:
    """The edge server: one compute rate, one mini-batch at a time."""

    flops_per_s: float


@dataclass(frozen=True)
class Link:
    """A band of `bandwidth_hz`; device n holds `shares[n]` of it in each direction (sum <= 1)."""

    bandwidth_hz: float
    shares: tuple[float, ...]
