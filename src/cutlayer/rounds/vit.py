"""A plain vision transformer from its dimensions alone: parameters, layers, what autograd keeps.

For analytic figures, which need neither torch nor a download; `model.describe` makes the same value
from a real model. Knows pre-norm ViTs (arXiv 2010.11929) with biases and fused attention.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from cutlayer.errors import ConfigError
from cutlayer.spec import Activations, BatchBytes, BlockBytes, LinearShape, ModelSpec

VitLayer: TypeAlias = Literal["query", "key", "value", "output", "up", "down"]
VIT_LAYERS: tuple[VitLayer, ...] = get_args(VitLayer)
_FLOAT32_BYTES = 4
_ATTENTION_INPUTS = ("query", "key", "value")


@dataclass(frozen=True)
class VitDimensions:
    """A ViT's dimensions. `rank`: of the adapters on the layers `adapted`, in every block.

    `fused_qkv`: query, key and value are one layer with one adapter (16Dr instead of 18Dr adapter
    values a block for `mlp_ratio` 4). Raises ConfigError for dimensions that do not fit together.
    """

    name: str
    blocks: int
    width: int
    heads: int
    mlp_ratio: int = 4
    patch: int = 16
    channels: int = 3
    image_side: int = 224
    classes: int = 100
    rank: int = 16
    adapted: tuple[VitLayer, ...] = VIT_LAYERS
    fused_qkv: bool = False
    bytes_per_value: int = 4

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is no multiple of {self.heads} heads")
        if self.image_side % self.patch:
            raise ConfigError(
                f"images of {self.image_side} pixels cannot be cut into patches of {self.patch}"
            )
        fused = set(self.adapted) & set(_ATTENTION_INPUTS)
        if self.fused_qkv and fused not in (set(), set(_ATTENTION_INPUTS)):
            raise ConfigError(f"fused query, key and value are adapted together, not {fused}")

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_side // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """Tokens of an image: its patches and the class token."""
        return self.patches + 1

    @property
    def patch_values(self) -> int:
        """Values in a patch, `P^2 C`."""
        return self.patch**2 * self.channels


VIT_BASE = VitDimensions("ViT-B/16", blocks=12, width=768, heads=12)
VIT_LARGE = VitDimensions("ViT-L/16", blocks=24, width=1024, heads=16)


def vit_spec(dimensions: VitDimensions) -> ModelSpec:
    """The ModelSpec of a ViT with these dimensions; its head is not trained."""
    d, D = dimensions, dimensions.width
    return ModelSpec(
        name=d.name,
        blocks=d.blocks,
        width=D,
        heads=d.heads,
        head_width=D // d.heads,
        block_linears=_linears(d),
        block_parameters=exact_block_parameters(d),
        embedding_parameters=embedding_parameters(d),
        head_parameters=2 * D + head_parameters(d),
        classes=d.classes,
        embedding_flops_per_token=round(2 * d.patch_values * D * d.patches / d.tokens),
        bytes_per_value=d.bytes_per_value,
        first_attention_trained=bool(set(d.adapted) & set(_ATTENTION_INPUTS)),
        activations=_activations(d),
    )


def exact_block_parameters(dimensions: VitDimensions) -> int:
    """A frozen block: `(4 + 2m) D^2` weights and `(9 + m) D` biases and norm values, m = MLP ratio.

    `12D^2 + 13D` for m = 4; the paper leaves out 13D (defect 10).
    """
    D, m = dimensions.width, dimensions.mlp_ratio
    return (4 + 2 * m) * D**2 + (9 + m) * D


def embedding_parameters(dimensions: VitDimensions) -> int:
    """`(P^2 C + N + 3) D` with N patches: convolution, its bias, class token, N + 1 positions."""
    return (dimensions.patch_values + dimensions.patches + 3) * dimensions.width


def patch_convolution_parameters(dimensions: VitDimensions) -> int:
    """`(P^2 C + 1) D`: the embedding without class token and positions."""
    return (dimensions.patch_values + 1) * dimensions.width


def head_parameters(dimensions: VitDimensions) -> int:
    """`DK + K`: the classification layer alone."""
    return (dimensions.width + 1) * dimensions.classes


def block_adapter_parameters(dimensions: VitDimensions) -> int:
    """Adapter values in a block: 18Dr for six layers of MLP ratio 4, 16Dr with fused qkv."""
    return sum(linear.adapter_parameters for linear in _linears(dimensions))


def _linears(d: VitDimensions) -> tuple[LinearShape, ...]:
    D, inner = d.width, d.mlp_ratio * d.width
    shapes: dict[VitLayer, tuple[int, int]] = {
        **({"query": (D, 3 * D)} if d.fused_qkv else dict.fromkeys(VIT_LAYERS[:3], (D, D))),
        "output": (D, D),
        "up": (D, inner),
        "down": (inner, D),
    }
    return tuple(
        LinearShape(
            *shape,
            rank=d.rank if name in d.adapted else 0,
            reads_block_input=not _adapted_before(d, name),
        )
        for name, shape in shapes.items()
    )


def _adapted_before(d: VitDimensions, name: VitLayer) -> bool:
    """Whether anything is trained between the block's input and this layer's input."""
    before = () if name in _ATTENTION_INPUTS else VIT_LAYERS[: VIT_LAYERS.index(name)]
    return bool(set(before) & set(d.adapted))


def _activations(d: VitDimensions) -> Activations:
    image_values = _FLOAT32_BYTES * d.patch_values
    statistics = 2 * d.bytes_per_value
    first, other = _kept(d, first=True), _kept(d, first=False)
    block_input = d.bytes_per_value * d.width
    block = BlockBytes(other, BatchBytes(other.fixed, token=other.token - block_input))
    return Activations(
        inputs=BatchBytes(sample=-image_values, token=image_values),
        embedding=BatchBytes(),
        first_block=BlockBytes(first, first),
        block=block,
        served_block=block,
        head=BatchBytes(token=block_input + statistics),
    )


def _kept(d: VitDimensions, *, first: bool) -> BatchBytes:
    """What a block keeps for backward.

    A norm keeps its input with mean and deviation, an adapted layer its input and what its A made
    of it, attention query, key, value, output and the logarithm of each row's sum, GELU its input;
    all this only from where something is trained on.
    """
    D, inner, adapted = d.width, d.mlp_ratio * d.width, set(d.adapted)
    values, row_sums, trained = 0, 0, not first
    if trained:
        values += D + 2
    if adapted & set(_ATTENTION_INPUTS):
        values, trained = values + D, True
    if trained:
        values, row_sums = values + 4 * D, d.heads
    elif "output" in adapted:
        values += D
    trained = trained or "output" in adapted
    if trained:
        values += D + 2
    if "up" in adapted:
        values, trained = values + D, True
    values += inner * (int(trained) + int("down" in adapted))
    ranks = sum(linear.rank for linear in _linears(d))
    return BatchBytes(
        fixed=_cast_adapters(d, first=first),
        token=d.bytes_per_value * (values + ranks) + _FLOAT32_BYTES * row_sums,
    )


def _cast_adapters(d: VitDimensions, *, first: bool) -> int:
    """A base of another type multiplies with copies of the adapters; backward needs those of B,
    and those of A that pass a gradient on."""
    if d.bytes_per_value == _FLOAT32_BYTES:
        return 0
    stops = [linear for linear in _linears(d) if first and linear.reads_block_input]
    unneeded = sum(linear.rank * linear.inputs for linear in stops)
    return d.bytes_per_value * (block_adapter_parameters(d) - unneeded)
