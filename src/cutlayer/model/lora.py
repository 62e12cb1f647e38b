"""LoRA (and head) layers that read each device's own values from its row."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AdapterSpec:
    """What is trained: `y = base(x) + (alpha / rank) (x A^T) B^T` on the targets.

    `targets`: last component(s) of module names inside the blocks (`("q_proj", "v_proj")`,
    `("attention.output.dense",)`), or "all": every linear layer of every block. `patch_embedding`:
    also the convolution that makes patches (devices). `head`: the classification head itself is
    trained (server); refused for causal language models.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] | Literal["all"] = "all"
    patch_embedding: bool = False
    head: bool = False
