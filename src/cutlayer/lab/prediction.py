"""What a round is predicted to take, from the rounds before it; and beside it what it took.

Pure functions: the timeline is played with the seconds that devices and server needed to compute
in earlier rounds, with the bytes that the codec expects and with the channel's rates. A round is
never predicted from itself, and not from how long earlier rounds were: only from their computing.
Knows no process and no file; records and trace lines have the keys of `rounds.jsonl` and
`trace.jsonl`.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np
from jaxtyping import Float64

from cutlayer.channel.rates import LinkRates
from cutlayer.report.wording import PHASES, WAITS
from cutlayer.rounds.result import RoundTimeline
from cutlayer.rounds.schemes import Phase, Place, Scheme
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, SharingRules

# processes compute, allocate and send for the first time in this round: it tells of no other
WARM_UP = 1
# how many rounds predict one: more would average more noise away, and follow a load later
_RECENT = 3
# the part of rounds that are to be within their intervals
CONFIDENCE = 0.9
# a round's local steps are at most so many pieces of it, each of which tells how a round might be
_PIECES = 16
# fewer tell nothing of a spread
_LEAST_PIECES = 3
# further from the median than so many standard deviations is an accident
_FAR = 3.0
# a normal distribution's standard deviation in median absolute deviations
_DEVIATION = 1.4826
# an amount of work is given in the seconds that it takes
_UNIT = 1.0

CALIBRATED = "rounds before"
_QUEUE = "timeline"
_LINK = "channel and codec"
_ROUND = "round"

# a device's seconds of a micro-batch by phase that computes, and local step
ComputeSeconds = Mapping[Phase, Float64[np.ndarray, " step"]]
# one local step's, or what stands for all of them
StepSeconds = Mapping[Phase, float]


@dataclass(frozen=True)
class RoundModel:
    """What is known of a round but its computing. `work`: each device's bytes and link rates."""

    scheme: Scheme
    work: Sequence[DeviceWork]
    rules: SharingRules

    def play(self, compute_s: Sequence[StepSeconds]) -> RoundTimeline:
        """The round in which every micro-batch of a device takes so long to compute."""
        work = [_with_seconds(own, each) for own, each in zip(self.work, compute_s, strict=True)]
        return simulate(self.scheme, work, self.rules)


@dataclass(frozen=True)
class Prediction:
    """A round that is to come [s]. `by_phase_s`: its slowest device's; `interval_s`: where 9 of 10
    rounds are expected, None if too little was seen to say."""

    delay_s: float
    by_phase_s: Mapping[str, float]
    interval_s: tuple[float, float] | None


def computing_phases(scheme: Scheme) -> tuple[Phase, ...]:
    """The phases whose seconds are calibrated."""
    return tuple(step.phase for step in scheme.local if not step.sends)


def compute_seconds(
    scheme: Scheme, trace: Sequence[Mapping[str, Any]], devices: int
) -> tuple[ComputeSeconds, ...] | None:
    """Each device's seconds of computing in one round, whose `trace` has lines as `trace.jsonl`;
    of the micro-batches of a local step the mean. None if a device was not observed."""
    found: dict[tuple[int, Phase], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    phases = {step.phase: step.place for step in scheme.local if not step.sends}
    lines = [line for line in trace if line["phase"] in phases]
    free_s = _server_free_s([line for line in lines if phases[line["phase"]] is Place.SERVER])
    for line in lines:
        start_s, phase = line["start_s"], Phase(line["phase"])
        end_s = line["end_s"]
        if phases[phase] is Place.SERVER:
            end_s = min(end_s, free_s[start_s])
        found[line["device"], phase][line["local_step"]].append(end_s - start_s)
    if any((device, phase) not in found for device in range(devices) for phase in phases):
        return None
    return tuple(
        {
            phase: np.array([np.mean(each) for _, each in sorted(found[device, phase].items())])
            for phase in phases
        }
        for device in range(devices)
    )


def _server_free_s(lines: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """By the start of each of the server's computations, when the next one starts: it was free
    then, though the reply of the first may still have waited for the journal."""
    starts_s = sorted({line["start_s"] for line in lines})
    return dict(zip(starts_s, [*starts_s[1:], math.inf], strict=True))


def predict(model: RoundModel, before: Sequence[Sequence[ComputeSeconds]]) -> Prediction:
    """The round after those `before`, of which there is one: every device's seconds in each.

    The point is the timeline with each device's robust mean by phase over the last rounds. The
    interval is from timelines that go on throughout like one piece of these rounds: other work on a
    machine lasts longer than a local step, so a whole round may be as any of its pieces was, and
    nothing is gained by averaging them.
    """
    recent = before[-_RECENT:]
    timeline = model.play([_robust_means(own) for own in zip(*recent, strict=True)])
    pieces_s = [model.play(piece).delay_s for one in recent for piece in _pieces(one, _PIECES)]
    return Prediction(
        timeline.delay_s,
        {phase.value: seconds for phase, seconds in timeline.critical_phase_seconds().items()},
        spread(timeline.delay_s, pieces_s, len(recent)),
    )


def replay(model: RoundModel, own: Sequence[ComputeSeconds]) -> float:
    """The timeline's delay [s] with what the round itself needed to compute: no prediction. How far
    it is from the measured one is the timeline's error, whatever the machine's load was."""
    (whole,) = _pieces(own, 1)
    return model.play(whole).delay_s


def robust_mean(values: Float64[np.ndarray, " value"]) -> float:
    """The mean, after what is further from the median than three standard deviations has been
    brought in to there.

    A round is a sum, so the mean is its measure: steps that share a core take twice as long, and
    are no accident. A process that stood still for a minute is one.
    Source: Hampel (1974), "The influence curve", for the median absolute deviation as the scale.
    """
    middle = float(np.median(values))
    reach = _FAR * _DEVIATION * float(np.median(np.abs(values - middle)))
    return float(np.clip(values, middle - reach, middle + reach).mean())


def spread(delay_s: float, pieces_s: Sequence[float], rounds: int) -> tuple[float, float] | None:
    """Where the next of so many `rounds` that consist of `pieces_s` is in 9 of 10 cases, with the
    prediction `delay_s` in it. None: too few pieces.

    Quantiles of the pieces, or their ends if they are few; and further from `delay_s`, as ratios,
    by 1 / `rounds`: the next one's load may be one that they have not seen. A rule of thumb: of
    rounds of 10 steps under other work that lasts from a tenth of a step to ten rounds, 85 to 100 %
    are in their intervals (without the last, 63 to 99 %).
    """
    if len(pieces_s) < _LEAST_PIECES:
        return None
    tail = (1 - CONFIDENCE) / 2
    # of n values in order, the next one is below the i-th with probability i / (n + 1)
    ends_s = np.quantile(pieces_s, [tail, 1 - tail], method="weibull")
    low, high = ((ends_s / delay_s) ** (1 + 1 / rounds)).tolist()
    return delay_s * min(low, 1.0), delay_s * max(high, 1.0)


def unicast_links(links: Sequence[LinkRates]) -> tuple[LinkRates, ...]:
    """The channel's rates with a link of its own for each device: what a radio broadcasts on the
    whole bandwidth goes to each on its share."""
    return tuple(replace(link, broadcast_bit_per_s=link.downlink_bit_per_s) for link in links)


def _robust_means(rounds: Sequence[ComputeSeconds]) -> StepSeconds:
    """One device's, over all local steps of `rounds`."""
    phases = rounds[0]
    return {phase: robust_mean(np.concatenate([own[phase] for own in rounds])) for phase in phases}


def _pieces(one: Sequence[ComputeSeconds], most: int) -> list[list[StepSeconds]]:
    """A round's local steps in at most so many consecutive pieces: every device's mean seconds in
    each."""
    steps = min(len(seconds) for own in one for seconds in own.values())
    count = min(steps, most)
    parts = [
        {phase: np.array_split(seconds, count) for phase, seconds in own.items()} for own in one
    ]
    return [
        [{phase: float(part[n].mean()) for phase, part in own.items()} for own in parts]
        for n in range(count)
    ]


def _with_seconds(work: DeviceWork, seconds: StepSeconds) -> DeviceWork:
    measured = {phase: np.full(work.repeats, each_s) for phase, each_s in seconds.items()}
    rates = DeviceRates(_UNIT, _UNIT, work.rates.link)
    return replace(work, amounts={**work.amounts, **measured}, rates=rates)


@dataclass(frozen=True)
class PhaseComparison:
    """One phase, or the round [s]. `basis`: where the prediction has its number from."""

    label: str
    predicted_s: float
    measured_s: float
    basis: str

    @property
    def difference(self) -> float | None:
        """How much longer it was than predicted, as a part of that; None: nothing was predicted."""
        return _difference(self.predicted_s, self.measured_s)


@dataclass(frozen=True)
class RoundComparison:
    """One round [s], and what was predicted for it before it. `replayed_s`: see `replay`."""

    number: int
    predicted_s: float
    interval_s: tuple[float, float] | None
    replayed_s: float
    measured_s: float

    @property
    def difference(self) -> float | None:
        """How much longer it was than predicted, as a part of that; None: nothing was predicted."""
        return _difference(self.predicted_s, self.measured_s)

    @property
    def timeline_difference(self) -> float | None:
        """The same, had its computing been known."""
        return _difference(self.replayed_s, self.measured_s)

    @property
    def expected(self) -> bool | None:
        """Whether it was within its interval; None: it has none."""
        if self.interval_s is None:
            return None
        low_s, high_s = self.interval_s
        return low_s <= self.measured_s <= high_s


@dataclass(frozen=True)
class LabComparison:
    """Medians over `rounds`, in their order; `phases` are those of each round's slowest device."""

    phases: tuple[PhaseComparison, ...]
    round: PhaseComparison
    rounds: tuple[RoundComparison, ...]

    def within(self, tolerance: float) -> bool:
        """Whether the measured round is that near to the predicted one."""
        difference = self.round.difference
        return difference is not None and abs(difference) <= tolerance

    @property
    def mean_error(self) -> float:
        """By how much of its prediction a round was longer or shorter, on average."""
        return _mean_size(one.difference for one in self.rounds)

    @property
    def timeline_error(self) -> float:
        """The same, had each round's computing been known: what the timeline itself errs by."""
        return _mean_size(one.timeline_difference for one in self.rounds)


def compare_rounds(
    model: RoundModel,
    measured: Sequence[Mapping[str, Any]],
    observed: Mapping[int, Sequence[ComputeSeconds]],
) -> LabComparison | None:
    """Each of the `measured` rounds, in their order, beside what those before it predict.

    `observed`: every device's seconds of computing by the round's number; rounds without are left
    out, and so is the one that warms up. Phases that took no time in either are left out. None: no
    round was measured that others predict.
    """
    pairs, before = [], list[Sequence[ComputeSeconds]]()
    for record in measured:
        number = record["round"]
        if number > WARM_UP and number in observed:
            if before:
                pairs.append((predict(model, before), record))
            before.append(observed[number])
    if not pairs:
        return None
    calibrated = computing_phases(model.scheme)
    rows = [
        PhaseComparison(
            PHASES[name].label,
            median(prediction.by_phase_s.get(name, 0.0) for prediction, _ in pairs),
            median(record["delay_by_phase_s"].get(name, 0.0) for _, record in pairs),
            _basis(name, calibrated),
        )
        for name in PHASES
    ]
    rounds = tuple(
        RoundComparison(
            number=record["round"],
            predicted_s=prediction.delay_s,
            interval_s=prediction.interval_s,
            replayed_s=replay(model, observed[record["round"]]),
            measured_s=record["delay_s"],
        )
        for prediction, record in pairs
    )
    whole = PhaseComparison(
        _ROUND,
        median(one.predicted_s for one in rounds),
        median(one.measured_s for one in rounds),
        "all of it",
    )
    phases = tuple(row for row in rows if row.predicted_s > 0 or row.measured_s > 0)
    return LabComparison(phases, whole, rounds)


def _difference(predicted_s: float, measured_s: float) -> float | None:
    return measured_s / predicted_s - 1.0 if predicted_s > 0 else None


def _mean_size(differences: Iterable[float | None]) -> float:
    return fmean(abs(one) for one in differences if one is not None)


def _basis(phase: str, calibrated: Collection[str]) -> str:
    if phase in calibrated:
        return CALIBRATED
    return _QUEUE if phase in WAITS else _LINK
