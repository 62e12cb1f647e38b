"""The shortest seconds to a target accuracy, over all that a plan may choose.

How many local steps a way of training needs is read from what was measured: the curve of training
without a codec, less what the codec and the device part lose by its end. A way takes as long as its
rounds on the timeline. What rests on something that nobody measured (another base, coded adapters,
more local steps a round) is shown with what it would take, and never chosen. Knows no configuration
and no file: whoever asks makes a workload of each other setting, a `Variant`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import variance
from typing import Any

import numpy as np

from cutlayer.errors import ConfigError
from cutlayer.planner.decision import CodecChoice, Decision, PlanLimits, Workload, round_kinds
from cutlayer.planner.energy import plan_energy
from cutlayer.planner.forecast import Forecast, forecast_rounds
from cutlayer.planner.profile import TRAINED, CurvePoint, DevicePartPoint, MeasuredLoss, Profile
from cutlayer.planner.search import RankedDecision, ranked_decisions
from cutlayer.rounds.schemes import SFT, Scheme

FROZEN, WARM = "frozen", "warm"
# of each variant and scheme, how many cuts are played on the timeline
_PLAYED_CUTS = 12


@dataclass(frozen=True)
class Target:
    """The share of test samples to get right, and the most that all devices together may take for
    it [J] (None: no limit). Raises ConfigError for a share outside (0, 1], or no joule."""

    accuracy: float
    most_devices_j: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.accuracy <= 1:
            raise ConfigError(
                f"target accuracy {self.accuracy:g}: give a share of the test samples, such as 0.78"
            )
        if self.most_devices_j is not None and not self.most_devices_j > 0:
            raise ConfigError(f"device energy {self.most_devices_j:g} J: give more than 0")


@dataclass(frozen=True, eq=False)
class Variant:
    """A workload under settings that may be others than those given: `settings`, by section and
    key, none where it is as given. `unmeasured`: what nobody knows of its accuracy. `title`: what
    it is called where it was measured."""

    workload: Workload
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unmeasured: tuple[str, ...] = ()
    title: str = ""

    @property
    def steps(self) -> int:
        """Local steps a round of the device that has most."""
        return max(self.workload.local_steps)

    def concerns(self, scheme: Scheme) -> bool:
        """Whether it makes a difference to rounds of a scheme."""
        if "device_part" in self.settings:
            return scheme == SFT
        return "adapter_codec" not in self.settings or scheme.trains_device


@dataclass(frozen=True)
class Needed:
    """Local steps until the target: as measured, and at one standard error either way; None: not
    within what was measured."""

    least: float
    likely: float
    most: float | None

    def rounds(self, steps: int) -> "Needed":
        """The same in whole rounds of so many steps."""
        most = None if self.most is None else float(math.ceil(self.most / steps))
        return Needed(math.ceil(self.least / steps), math.ceil(self.likely / steps), most)


@dataclass(frozen=True)
class Loss:
    """What a way loses of the curve's accuracy, its standard error, and what of it is no measured
    value."""

    loss: float
    error: float
    unmeasured: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Learning:
    """What a profile says of accuracy on the way. `curve`: its own, or its end alone."""

    profile: Profile
    curve: tuple[CurvePoint, ...]

    @staticmethod
    def of(profile: Profile, rounds: int, steps: int) -> "Learning":
        """`rounds`, `steps`: when a profile without a curve is taken to have ended."""
        end = CurvePoint(rounds, steps, profile.uncompressed.accuracies)
        return Learning(profile, profile.curve or (end,))

    @property
    def highest(self) -> CurvePoint:
        """Where it is most accurate."""
        return max(self.curve, key=lambda point: float(np.mean(point.accuracies)))

    @cached_property
    def device_part_cuts(self) -> tuple[int, ...]:
        """The cuts at which the device part was measured."""
        return tuple(sorted({point.cut for point in self.profile.device_parts}))

    def needed(self, loss: Loss, accuracy: float) -> Needed | None:
        """When the curve less `loss` is at `accuracy`; None where it never is."""
        likely, error = self._steps(accuracy + loss.loss, 0.0, loss.error), 1.0
        if likely is None:
            return None
        least = self._steps(accuracy + loss.loss, error, loss.error)
        most = self._steps(accuracy + loss.loss, -error, loss.error)
        return Needed(likely if least is None else least, likely, most)

    @property
    def warm_rounds(self) -> int | None:
        """The rounds in which a warm device part was trained; None: it was not measured."""
        return next((p.rounds for p in self.profile.device_parts if p.device_part == WARM), None)

    @property
    def steps(self) -> float:
        """Local steps a round of what was measured."""
        return self.curve[0].steps / self.curve[0].rounds

    def loss(self, decision: Decision, *, warm: bool = False) -> Loss | None:
        """What the decision loses against the curve; None where nothing is known of it. `warm`: its
        device part is frozen after as many steps as the profile's warm one.

        A cut between two that were measured loses what a line between them says.
        """
        codec = decision.codec.accuracy_loss
        if codec is None:
            return None
        own = 0.0 if decision.codec.codec == "none" else self.profile.loss_error
        name = FROZEN if decision.scheme.streams else WARM if warm else TRAINED
        splits = decision.scheme.splits
        parts = self._device_part(name, max(decision.cuts)) if splits else Loss(0.0, 0.0)
        if parts is None:
            return None
        unmeasured = parts.unmeasured
        return Loss(codec + parts.loss, math.hypot(own, parts.error), unmeasured)

    def _steps(self, threshold: float, errors: float, loss_error: float) -> float | None:
        """Where the curve, moved by so many of its and the loss' standard errors, first gets to the
        threshold; at its first point, if it is there at once."""
        reached, before = -math.inf, (0, -math.inf)
        for point in self.curve:
            spread = math.hypot(_error(point.accuracies), loss_error)
            reached = max(reached, float(np.mean(point.accuracies)) + errors * spread)
            if reached >= threshold:
                steps, share = before
                if not math.isfinite(share) or reached == share:
                    return float(point.steps)
                part = (threshold - share) / (reached - share)
                return steps + part * (point.steps - steps)
            before = point.steps, reached
        return None

    def _device_part(self, name: str, cut: int) -> Loss | None:
        """Against the device part trained at the profile's cut, through the same codec."""
        if not self.device_part_cuts:
            return Loss(0.0, 0.0) if name == TRAINED else None
        trained = {p.cut: p for p in self.profile.device_parts if p.device_part == TRAINED}
        reference = trained[min(trained, key=lambda at: abs(at - self.profile.cut))]
        points = sorted(
            (p for p in self.profile.device_parts if p.device_part == name), key=lambda p: p.cut
        )
        if not points:
            return None
        cuts = [point.cut for point in points]
        losses = [self._between(reference, point) for point in points]
        loss = float(np.interp(cut, cuts, [each.loss for each in losses]))
        error = float(np.interp(cut, cuts, [each.error for each in losses]))
        beyond = () if cuts[0] <= cut <= cuts[-1] else (f"a cut after block {cut}",)
        return Loss(loss, error, beyond)

    def _between(self, reference: DevicePartPoint, point: DevicePartPoint) -> MeasuredLoss:
        if point is reference:
            return MeasuredLoss(0.0, 0.0)
        return self.profile.loss_between(reference, point)


def _error(accuracies: tuple[float, ...]) -> float:
    """Of their mean; what one seed varies by is not known from it."""
    many = len(accuracies) > 1
    return math.sqrt(variance(accuracies) / len(accuracies)) if many else 0.0


@dataclass(frozen=True, eq=False)
class Way:
    """A way to the target: its rounds on the timeline, and how many of them it needs.

    `forecast` is of `rounds.likely` rounds.
    """

    variant: Variant
    forecast: Forecast
    rounds: Needed
    loss: Loss

    @property
    def seconds(self) -> float:
        """Until the target, simulated [s]."""
        return self.forecast.training_s

    @property
    def least_s(self) -> float:
        """One standard error better [s]."""
        return self._after(self.rounds.least)

    @property
    def most_s(self) -> float | None:
        """One standard error worse [s]; None: it may not be reached within what was measured."""
        return None if self.rounds.most is None else self._after(self.rounds.most)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """What nobody measured of its accuracy."""
        return (*self.variant.unmeasured, *self.loss.unmeasured)

    @property
    def devices_j(self) -> float | None:
        """Of all devices until the target [J]; None where nobody knows what they draw."""
        return plan_energy(self.forecast).all_devices_j

    def _after(self, rounds: float) -> float:
        return self.forecast.after(int(rounds)).training_s


@dataclass(frozen=True, eq=False)
class TargetPlan:
    """The fastest way of each variant and scheme, the fastest first, those that rest on what nobody
    measured among them, if they would be faster than what is given. `chosen`: the fastest of the
    others; None: there is none. `assumed`: of what is given."""

    target: Target
    learning: Learning
    ways: tuple[Way, ...]
    assumed: tuple[str, ...] = ()

    @property
    def chosen(self) -> Way | None:
        """See the class."""
        return next((way for way in self.ways if not way.unmeasured), None)


def plan_to_target(
    target: Target,
    variants: Sequence[Variant],
    limits: PlanLimits,
    schemes: Sequence[Scheme],
    codecs: Sequence[CodecChoice],
    learning: Learning,
) -> TargetPlan:
    """The fastest way with each variant and scheme, within the limits on memory, the server and the
    devices' energy. The first variant is what is given. Raises ConfigError for a workload that no
    scheme can take."""
    found: list[Way] = []
    for scheme in schemes:
        given_s = math.inf
        own = [each for each in variants if each.concerns(scheme)]
        for variant in own:
            ways = list(_ways(target, variant, limits, scheme, codecs, learning))
            for measured in (True, False):
                some = [way for way in ways if (not way.unmeasured) == measured]
                best = min(some, key=lambda way: way.seconds, default=None)
                if best is not None and best.seconds < given_s:
                    found.append(best)
                    given_s = best.seconds if variant is own[0] else given_s
    return TargetPlan(target, learning, tuple(sorted(found, key=lambda way: way.seconds)))


def _ways(
    target: Target,
    variant: Variant,
    limits: PlanLimits,
    scheme: Scheme,
    codecs: Sequence[CodecChoice],
    learning: Learning,
) -> Iterator[Way]:
    """The best at each of some cuts, by the estimate, as the timeline has them."""
    workload = variant.workload
    curves = workload.channel.mean_curves()
    best: dict[int, tuple[float, RankedDecision, Needed, Loss]] = {}
    warm = workload.warm_rounds is not None
    if warm:  # another order of steps is none that can go on frozen
        limits = replace(limits, fixed=replace(limits.fixed, scheme=True))
    for candidate in ranked_decisions(workload, limits, scheme, codecs, curves):
        loss = learning.loss(candidate.decision, warm=warm)
        needed = None if loss is None else learning.needed(loss, target.accuracy)
        if loss is None or needed is None or candidate.server_part > limits.server_busy:
            continue
        rounds = needed.rounds(variant.steps)
        own = replace(workload, rounds=int(rounds.likely))
        kinds = zip(round_kinds(own, candidate.decision), candidate.kinds_s, strict=True)
        seconds = candidate.kinds_s[0] + sum(kind.rounds * each_s for kind, each_s in kinds)
        cut = candidate.decision.cuts[0]
        if cut not in best or seconds < best[cut][0]:
            best[cut] = seconds, candidate, rounds, loss
    for cut in sorted(best, key=lambda at: best[at][0])[:_PLAYED_CUTS]:
        _, candidate, rounds, loss = best[cut]
        own = replace(workload, rounds=int(rounds.likely))
        way = Way(variant, forecast_rounds(own, candidate.decision, curves), rounds, loss)
        most, devices_j = target.most_devices_j, way.devices_j
        if most is not None and devices_j is None:
            unknown = (*variant.unmeasured, "what devices draw")
            yield replace(way, variant=replace(variant, unmeasured=unknown))
        elif most is None or (devices_j is not None and devices_j <= most):
            yield way
