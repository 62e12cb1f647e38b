"""A profile for tests, with the shape of a measured one: no training was made for it."""

import numpy as np

from cutlayer.planner.profile import Profile, ProfilePoint

REFERENCE = 0.88


def _grid(codec: str, factor: float) -> list[ProfilePoint]:
    points = []
    for keep_ratio in (0.05, 0.1, 0.2, 0.5, 1.0):
        for bits in (1, 2, 4, 8):
            kept = 1 - 0.32 * np.exp(-keep_ratio / 0.065)
            accuracy = REFERENCE * float(kept) * (1 - 0.4 * 4.0**-bits)
            sent = factor * keep_ratio * (bits + 1)
            settings = {"keep_ratio": keep_ratio, "levels": 2**bits - 1}
            points.append(ProfilePoint(codec, settings, sent, sent, (accuracy,)))
    return points


def _best(up: float, down: float, loss: float) -> ProfilePoint:
    settings = {"target_bits_up": up, "target_bits_down": down}
    return ProfilePoint("best", settings, up, down, (REFERENCE - loss,))


def profile(model: str = "dinov2-small", data: str = "fashion-mnist") -> Profile:
    """Two grids, and `best` at 0.3, 0.7 and 1 bits up: it loses 8, 1.2 and 0.4 points."""
    points = (
        ProfilePoint("none", {}, 32.0, 32.0, (REFERENCE,)),
        *_grid("paper", 3.0),
        *_grid("paper-rans", 2.0),
        _best(0.3, 0.2, 0.08),
        _best(0.7, 0.4, 0.012),
        _best(1.0, 0.6, 0.004),
    )
    return Profile(model, data, 4, "made up", "cutlayer profile", 500, (0,), points)
