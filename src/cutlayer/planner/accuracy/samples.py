"""Points of a profile as arrays: what an accuracy surface is fitted to.

Knows which codecs have a keep ratio and levels, and no fit.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy.profile import Profile
from cutlayer.planner.accuracy.surface import Box

# both send the same tensors, in more or fewer bytes
CODECS = ("paper-rans", "paper")


@dataclass(frozen=True, eq=False)
class Samples:
    """Settings that were trained, each once; `bits` is q of levels = 2^q - 1.

    `accuracy` [share of test samples] is the mean over `trainings` of them, whose variance among
    the seeds is `variance`: NaN where there was one.
    """

    keep_ratio: Float64[np.ndarray, " point"]
    bits: Float64[np.ndarray, " point"]
    accuracy: Float64[np.ndarray, " point"]
    trainings: Float64[np.ndarray, " point"]
    variance: Float64[np.ndarray, " point"]

    @property
    def box(self) -> Box:
        """The smallest that holds every point."""
        rho, q = self.keep_ratio, self.bits
        return Box(
            (float(rho.min()), float(rho.max())),
            (float(q.min()), float(q.max())),
        )

    @property
    def noise(self) -> float:
        """How far a mean over the seeds is from that over all seeds: its standard error.

        From the points with several trainings, NaN without any.
        """
        known = self.trainings > 1
        if not known.any():
            return float("nan")
        return float(np.sqrt(np.mean(self.variance[known] / self.trainings[known])))


def samples_of(profile: Profile) -> Samples:
    """What the profile says of the published codec. Raises ConfigError: nothing.

    Both of `CODECS` at one setting are one training, counted once: they decode to equal tensors.
    """
    measured: dict[tuple[float, float], list[float]] = {}
    for point in profile.of(*CODECS):
        place = point.settings["keep_ratio"], float(np.log2(point.settings["levels"] + 1))
        measured.setdefault(place, list(point.accuracies))
    if not measured:
        raise ConfigError(
            f"the profile of {profile.model} on {profile.data} has no point of"
            f" {' or '.join(CODECS)}, so no accuracy by keep ratio and bits; profile again"
        )
    keep_ratio, bits = np.array(list(measured), dtype=np.float64).T
    each = [np.array(accuracies) for accuracies in measured.values()]
    return Samples(
        keep_ratio,
        bits,
        np.array([accuracies.mean() for accuracies in each]),
        np.array([float(len(accuracies)) for accuracies in each]),
        np.array([a.var(ddof=1) if len(a) > 1 else np.nan for a in each]),
    )
