"""Top-K sparsification: which values of each sample are kept.

Knows flat segments, one sample after another; nothing of how the kept values are coded.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64


def kept_counts(sizes: Int[np.ndarray, " batch"], keep_ratio: float) -> Int64[np.ndarray, " batch"]:
    """K of each sample: `keep_ratio * size` rounded half up, at least 1, at most its size.

    Source: SFT eq. (16), which calls keep_ratio rho.
    """
    rounded = np.floor(keep_ratio * sizes + 0.5).astype(np.int64)
    counts: Int64[np.ndarray, " batch"] = np.minimum(np.maximum(rounded, 1), sizes)
    return counts


def top_k(
    magnitudes: Float32[np.ndarray, " value"],
    sizes: Int[np.ndarray, " batch"],
    counts: Int[np.ndarray, " batch"],
) -> Int[np.ndarray, " kept"]:
    """The positions, ascending, of the `counts[i]` largest magnitudes of each sample i.

    Of equal magnitudes the first ones are kept, so exactly K are.
    Source: SFT eq. (15), per sample since s_l there is one sample's [token, width].
    """
    kept = np.zeros(magnitudes.size, dtype=np.bool_)
    start = 0
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        segment = slice(start, start + size)
        kept[segment] = _largest(magnitudes[segment], count)
        start += size
    return np.flatnonzero(kept)


def _largest(magnitudes: Float32[np.ndarray, " value"], count: int) -> Bool[np.ndarray, " value"]:
    rank = magnitudes.size - count
    if rank == 0:
        return np.ones(magnitudes.size, dtype=np.bool_)
    threshold = np.partition(magnitudes, rank)[rank]
    kept: Bool[np.ndarray, " value"] = magnitudes >= threshold
    surplus = int(np.count_nonzero(kept)) - count
    if surplus > 0:
        ties = np.flatnonzero(magnitudes == threshold)
        kept[ties[-surplus:]] = False
    return kept
