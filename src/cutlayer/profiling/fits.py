"""How well the accuracy surfaces go through a profile, in lines.

Knows both surfaces' judgement; the planner decides on them elsewhere.
"""

import math
from dataclasses import replace

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy.cross_validation import Judged, fit
from cutlayer.planner.accuracy.profile import Profile
from cutlayer.profiling.grid import SAME_SYMBOLS


def fit_lines(profile: Profile) -> tuple[str, ...]:
    """A line for each surface, and the noise that neither can go below.

    One line that says why, where the profile has no full grid.
    """
    # a training of `paper` is also a point of `paper-rans`: its noise counts once
    own = replace(profile, points=(profile.uncompressed, *profile.of(SAME_SYMBOLS)))
    try:
        fitted = fit(own)
    except ConfigError as error:
        return (f"no accuracy surface: {error}",)
    noise = (
        "unknown with one seed"
        if math.isnan(fitted.noise)
        else f"{fitted.noise:.2f} points (standard error of a mean over the seeds)"
    )
    return (
        _line("cubic (35)", fitted.cubic),
        _line("monotone surface", fitted.monotone),
        f"noise: {noise}",
    )


def _line(name: str, judged: Judged) -> str:
    left_out = (
        f"{judged.left_out_root:.2f} at points left out in turn"
        if math.isfinite(judged.left_out_root)
        else "too few points to leave any out"
    )
    return f"{name}: {judged.root:.2f} points root mean square at the points, {left_out}"
