"""The yardstick: what a coder that learns would pay if rows' and columns' classes cost nothing.

Every symbol is coded in the context of its class, the rounded logarithm of its row's share of
non-zero symbols times its column's: whether it is zero, then its magnitude; and its sign in the
context of its column. Each context learns its frequencies on the way (Krichevsky-Trofimov: counts
start at 1/2). Signs take one bit each where learning them does not pay.
"""

from math import lgamma

import numpy as np

STEP_OCTAVES = 0.5
CLASSES = 41


def learned_bits(counts):
    """Of an adaptive code of symbols that occur this often, in any order."""
    log_gammas = sum(lgamma(count + 0.5) - lgamma(0.5) for count in counts)
    kinds, total = len(counts), sum(counts)
    return -(log_gammas + lgamma(kinds / 2) - lgamma(total + kinds / 2)) / np.log(2)


def entropy_bits(symbols):
    """The two-way adaptive entropy of a matrix [bits]."""
    symbols = symbols[symbols.any(1)][:, symbols.any(0)].astype(np.int64)
    if not symbols.size:
        return 0.0
    magnitudes = np.minimum(abs(symbols), 62)
    some = symbols != 0
    places = np.log2(some.mean(1))[:, None] + np.log2(some.mean(0))[None]
    classes = np.rint(places / STEP_OCTAVES).astype(np.int64)
    classes = np.maximum(classes - classes.max() + CLASSES - 1, 0)
    kinds = magnitudes.max() + 1
    counts = np.bincount((classes * kinds + magnitudes).reshape(-1), minlength=CLASSES * kinds)
    counts = counts.reshape(CLASSES, kinds)
    zero_bits = sum(learned_bits([row[0], sum(row[1:])]) for row in counts.tolist())
    level_bits = sum(learned_bits(row[1:]) for row in counts.tolist())
    signs = zip((symbols > 0).sum(0).tolist(), (symbols < 0).sum(0).tolist(), strict=True)
    sign_bits = min(sum(learned_bits(pair) for pair in signs), int(some.sum()))
    return zero_bits + level_bits + sign_bits
