"""Top-K sparsification: which values are kept.

Knows the tokens of all samples, one a row; nothing of how the kept values are coded.
"""

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8

from cutlayer.codec.kernels.arrays import Array
from cutlayer.codec.kernels.kernels import Kernels
from cutlayer.errors import ConfigError

Scope = Literal["sample", "token", "batch"]


@final
@dataclass(frozen=True)
class TopK:
    """Keeps the values of largest magnitude of each sample, of each token, or of the whole batch.

    `keep_ratio` is the paper's rho, a retained share in (0, 1]; its "80 % sparsity" is 0.2. Of
    equal magnitudes the first ones are kept, so exactly K are.

    Raises ConfigError: keep_ratio out of range.
    Source: SFT eq. (15) and (16), per sample since s_l there is one sample's [token, width].
    """

    keep_ratio: float
    scope: Scope = "sample"

    def __post_init__(self) -> None:
        if not 0.0 < self.keep_ratio <= 1.0:
            raise ConfigError(f"keep_ratio {self.keep_ratio}: give a share in (0, 1], such as 0.2")

    def kept(
        self,
        values: Float32[Array, "row column"],
        sizes: Int64[np.ndarray, " batch"],
        kernels: Kernels,
    ) -> UInt8[Array, " value"]:
        """1 where a value is kept. `sizes`: the number of values of each sample."""
        if self.scope == "token":
            sizes = np.full(len(values), values.shape[1], dtype=np.int64)
        elif self.scope == "batch":
            sizes = np.array([sizes.sum()], dtype=np.int64)
        return kernels.top_k(values.reshape(-1), sizes, kept_counts(sizes, self.keep_ratio))


def kept_counts(sizes: Int[np.ndarray, " batch"], keep_ratio: float) -> Int64[np.ndarray, " batch"]:
    """K of each segment: `keep_ratio * size` rounded half up, at least 1, at most its size.

    Source: SFT eq. (16), which calls keep_ratio rho.
    """
    rounded = np.floor(keep_ratio * sizes + 0.5).astype(np.int64)
    counts: Int64[np.ndarray, " batch"] = np.minimum(np.maximum(rounded, 1), sizes)
    return counts
