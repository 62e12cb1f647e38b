"""Which codecs there are to choose from: those measured, and the best setting between the measured.

Knows profiles and surfaces; nothing of links and seconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cutlayer.planner.accuracy import GRID_CODECS, AccuracySurface, fit_surfaces
from cutlayer.planner.configuration import ConfigurationProblem, TabledRatio, solve_configuration
from cutlayer.planner.decision import CodecChoice
from cutlayer.planner.profile import Profile, ProfilePoint

_FLOAT32_BITS = 32


@dataclass(frozen=True)
class CodecChoices:
    """What a plan may choose (`accurate`, none of which sends more both ways than another), what
    costs too much accuracy, and what the paper's own plan takes (None: nothing is accurate enough).

    `loss_error`: the standard error of their losses, a share of the test samples; None: no losses.
    """

    accurate: tuple[CodecChoice, ...]
    inaccurate: tuple[CodecChoice, ...]
    published: CodecChoice | None
    loss_error: float | None = None


def measured_choices(profile: Profile, most_loss: float) -> CodecChoices:
    """From a profile: every measured point but those of the grid, and of the grid's codecs the
    setting of fewest bits that loses at most `most_loss` on the monotone surface.

    Raises ConfigError: the profile has no full grid.
    """
    reference = profile.uncompressed.accuracy
    measured = [
        _choice(point, reference - point.accuracy)
        for point in profile.points
        if point.codec not in GRID_CODECS
    ]
    surface = fit_surfaces(profile).monotone.surface
    rans, paper = (
        smallest_setting(profile, codec, surface, most_loss, reference) for codec in GRID_CODECS
    )
    good = [each for each in measured if _loss(each) <= most_loss]
    good += [] if rans is None else [rans]
    bad = [each for each in measured if _loss(each) > most_loss]
    return CodecChoices(tuple(_undominated(good)), tuple(bad), paper, profile.loss_error)


def smallest_setting(
    profile: Profile,
    codec: str,
    surface: AccuracySurface,
    most_loss: float,
    reference: float,
) -> CodecChoice | None:
    """The keep ratio and bits at which `codec` sends least and loses at most `most_loss`.

    Its bits are interpolated between the measured keep ratios. None: no setting is accurate enough.
    """
    points = profile.of(codec)
    if not points:
        return None
    both = _table(points, [(point.bits_up + point.bits_down) / 2 for point in points])
    problem = ConfigurationProblem(
        fixed_s=np.zeros((1, 1)),
        per_ratio_s=np.ones((1, 1)),
        compression=both,
        surface=surface,
        least_accuracy=min(max(reference - most_loss, 0.0), 1.0),
        need_bytes=np.zeros((1, 1)),
        limit_bytes=np.full(1, np.inf),
        server_busy=np.zeros(1),
        box=surface.box,
    )
    choice = solve_configuration(problem).choice
    if choice is None:
        return None
    at = np.array([choice.keep_ratio]), np.array([choice.bits])
    up, down = (
        float(_table(points, values).at(*at)[0])
        for values in ([p.bits_up for p in points], [p.bits_down for p in points])
    )
    settings = {"keep_ratio": choice.keep_ratio, "levels": 2.0**choice.bits - 1}
    # on the boundary the loss is the limit, rounding apart
    loss = min(reference - choice.accuracy, most_loss)
    return CodecChoice(codec, settings, up, down, loss)


def _table(points: Sequence[ProfilePoint], bits_sent: Sequence[float]) -> TabledRatio:
    """Bits per value over 32, by keep ratio and bits of a level."""
    rows = [(p.settings["keep_ratio"], float(np.log2(p.settings["levels"] + 1))) for p in points]
    keep_ratios = np.array(sorted({rho for rho, _ in rows}))
    bits = np.array(sorted({q for _, q in rows}))
    ratios = np.empty((len(keep_ratios), len(bits)))
    for (rho, q), sent in zip(rows, bits_sent, strict=True):
        ratios[np.searchsorted(keep_ratios, rho), np.searchsorted(bits, q)] = sent / _FLOAT32_BITS
    # measured bits rise with the keep ratio but for their noise
    return TabledRatio(keep_ratios, bits, np.maximum.accumulate(ratios, axis=0))


def _choice(point: ProfilePoint, loss: float) -> CodecChoice:
    up, down = point.bits_up / _FLOAT32_BITS, point.bits_down / _FLOAT32_BITS
    return CodecChoice(point.codec, point.settings, up, down, loss)


def _loss(choice: CodecChoice) -> float:
    assert choice.accuracy_loss is not None  # it comes from a profile
    return choice.accuracy_loss


def _undominated(choices: Iterable[CodecChoice]) -> list[CodecChoice]:
    """Those that no other one beats in both directions, fewest bits up first."""
    kept: list[CodecChoice] = []
    for choice in sorted(choices, key=lambda each: (each.up, each.down)):
        if not kept or choice.down < kept[-1].down:
            kept.append(choice)
    return kept
