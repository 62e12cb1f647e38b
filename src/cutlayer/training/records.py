"""What a run writes down: the lines of `rounds.jsonl` and `trace.jsonl`, `summary.json` and
`partition.json`.

One set of types for whoever writes them, reads them back, serves a run's status or draws its pages.
Keys carry their units; the order of the fields is that of the files. Of files it knows how a round
is found in a log.
"""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar, final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from cutlayer.errors import RunError, nearest, quoted
from cutlayer.rounds.result import TimelineEvent
from cutlayer.rounds.schemes import Phase
from cutlayer.spec import LeftOut

# the seconds of which only the sum is known
UNOBSERVED = "unobserved"
PHASE_NAMES = (*(phase.value for phase in Phase), UNOBSERVED)

# of a round, what grows with the number of devices
_PER_DEVICE = (
    *("shares", "device_delay_s", "device_delay_by_phase_s", "device_scores", "participants"),
)


def _known_phases(seconds: Mapping[str, float]) -> Mapping[str, float]:
    unknown = seconds.keys() - set(PHASE_NAMES)
    if unknown:
        raise ValueError(f"unknown phase {min(unknown)!r}, not in {', '.join(PHASE_NAMES)}")
    return seconds


def _nan(value: object) -> object:
    """JSON has no NaN: null stands for a number that is none, as where a run diverged."""
    return math.nan if value is None else value


# JSON bounds no integer; a double and a file size do
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Loss = Annotated[float, BeforeValidator(_nan)]
PhaseSeconds = Annotated[Mapping[str, Number], AfterValidator(_known_phases)]
# None: the run has the other measure, or the round was not evaluated
Accuracy = Annotated[float, Field(ge=0, le=1)] | None
Perplexity = Annotated[float | None, BeforeValidator(_nan)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# NaN: nothing is known of the device
DeviceScore = Annotated[float, BeforeValidator(_nan)]


@dataclass(frozen=True)
class Score:
    """How good the model is on held-out data: a fraction correct or a perplexity (low is good)."""

    measure: Literal["accuracy", "perplexity"]
    value: float

    @property
    def goodness(self) -> float:
        """The larger the better, whatever the measure."""
        return self.value if self.measure == "accuracy" else -self.value


class Record(BaseModel):
    """A value that is written down: it cannot change, and takes no key or type but its own."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    def written(self) -> dict[str, Any]:
        """As the file has it, in its order; what was not given is left out."""
        return self.model_dump(exclude_unset=True)

    def _score(self, suffix: str) -> Score:
        """Raises KeyError if there is none."""
        score = self._known_score(suffix)
        if score is None:
            raise KeyError(f"accuracy{suffix}")
        return score

    def _known_score(self, suffix: str) -> Score | None:
        values = vars(self)
        if (perplexity := values[f"perplexity{suffix}"]) is not None:
            return Score("perplexity", perplexity)
        accuracy = values[f"accuracy{suffix}"]
        return None if accuracy is None else Score("accuracy", accuracy)

    def _check_score(self, suffix: str) -> None:
        names = [f"accuracy{suffix}", f"perplexity{suffix}"]
        given = [name for name in names if vars(self)[name] is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of {names[0]} and {names[1]}, has {given}")


class _Evaluated(Record):
    round: Count
    accuracy: Accuracy = None
    perplexity: Perplexity = None
    eval_loss: Annotated[float | None, BeforeValidator(_nan)] = None

    @property
    def score(self) -> Score | None:
        """On the held-out samples, after the round; None where it was not evaluated."""
        return self._known_score("")


class FirstRound(_Evaluated):
    """The evaluation before training: the model as it came."""

    round: Literal[0]
    eval_loss: Loss
    virtual_time_s: Number
    wall_s: Number

    @model_validator(mode="after")
    def _has_a_score(self) -> "FirstRound":
        self._check_score("")
        return self


class CacheRecord(Record):
    """A round's samples of a scheme that keeps activations, each as often as it was used: `hits`
    were held by the server, `misses` were sent; of those `evicted` found no room as the round
    closed. `samples`, `held_bytes`: what is held then, on disk."""

    hits: Count
    misses: Count
    evicted: Count
    samples: Count
    held_bytes: Count


class TrainedRound(_Evaluated):
    """One round of training and the evaluation after it, unless it was not due; delays are virtual
    seconds or measured ones, as the run's clock is, and `wall_s` real ones.

    `delay_by_phase_s` follows the slowest device and sums to `delay_s`; `virtual_time_s` is the sum
    of all delays so far; `shares[n]`, `device_delay_s[n]` and `device_delay_by_phase_s[n]` are
    device n's part of the bandwidth and own delays (all empty: see `without_devices`); where not
    all devices take part, those of `participants[n]`. Of these `left` the round, and `late` had
    not made it when it closed: their delays are until they left, and what they would have taken.
    `macro_f1` and `device_scores`, as in `EvaluationDetails`, are there where
    `evaluation.figures` names them.
    """

    macro_f1: Fraction | None = None
    device_scores: tuple[DeviceScore, ...] = ()
    participants: tuple[Count, ...] = ()
    left: tuple[Count, ...] = ()
    late: tuple[Count, ...] = ()
    train_loss: Loss
    shares: tuple[Number, ...] = ()
    delay_s: Number
    delay_by_phase_s: PhaseSeconds
    slowest_device: Count
    device_delay_s: tuple[Number, ...] = ()
    device_delay_by_phase_s: tuple[PhaseSeconds, ...] = ()
    virtual_time_s: Number
    uplink_bytes: Count
    downlink_bytes: Count
    uncompressed_uplink_bytes: Count
    uncompressed_downlink_bytes: Count
    bytes_by_payload: Mapping[str, Count]
    wall_s: Number
    cache: CacheRecord | None = None

    def without_devices(self) -> "TrainedRound":
        """The same without what each device did: a kilobyte, however many they are."""
        kept = {name: value for name, value in self if name not in _PER_DEVICE}
        return self.model_construct(self.model_fields_set - set(_PER_DEVICE), **kept)

    @model_validator(mode="after")
    def _has_a_score_and_a_loss(self) -> "TrainedRound":
        if self.eval_loss is not None:
            self._check_score("")
        elif self.score is not None:
            raise ValueError("has a score and no eval_loss")
        return self

    @model_validator(mode="after")
    def _devices_agree(self) -> "TrainedRound":
        delays, phases = len(self.device_delay_s), len(self.device_delay_by_phase_s)
        if len(self.device_scores) not in (0, delays):
            raise ValueError(f"{len(self.device_scores)} device_scores for {delays} devices")
        if delays == phases == len(self.shares) == 0:
            return self
        devices = self.participants or range(delays)
        if delays != phases or self.slowest_device not in devices:
            raise ValueError(
                f"{delays} device_delay_s and {phases} device_delay_by_phase_s do not fit"
                f" slowest_device {self.slowest_device}"
            )
        if len(devices) != delays:
            raise ValueError(f"{len(devices)} participants for {delays} device_delay_s")
        if len(self.shares) != delays:
            raise ValueError(f"{len(self.shares)} shares for {delays} devices")
        return self


RoundRecord = FirstRound | TrainedRound


def best_round(records: Iterable[RoundRecord]) -> TrainedRound | None:
    """The trained round with the best score, the first of equals; None before the first."""
    best: TrainedRound | None = None
    most = -math.inf
    for record, score in scored(records):
        if isinstance(record, TrainedRound) and (best is None or score.goodness > most):
            best, most = record, score.goodness
    return best


def scored(records: Iterable[RoundRecord]) -> list[tuple[RoundRecord, Score]]:
    """Those of the records whose round was evaluated, with what came of it."""
    found = ((record, record.score) for record in records)
    return [(record, score) for record, score in found if score is not None]


class TraceLine(Record):
    """One phase of one micro-batch of one device; seconds since its round began."""

    round: Count
    event: TimelineEvent

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        """The file has the event's fields beside the round's number, its bytes by a short name."""
        if not isinstance(values, dict) or "event" in values:
            return values
        renamed = {"bytes": "payload_bytes"}
        event = {renamed.get(name, name): value for name, value in values.items()}
        number = {"round": event.pop("round")} if "round" in event else {}
        return {**number, "event": event}

    @model_validator(mode="after")
    def _possible(self) -> "TraceLine":
        event = self.event
        counts = (event.device, event.local_step or 0, event.micro_batch or 0, event.payload_bytes)
        if min(counts) < 0 or event.start_s < 0 or not math.isfinite(event.end_s):
            raise ValueError("has a number below 0, or one that is not finite")
        if not event.start_s <= event.end_s:
            raise ValueError(f"end_s {event.end_s} is before start_s {event.start_s}")
        return self

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        fields = {**vars(self.event)}
        payload_bytes = fields.pop("payload_bytes")
        return {"round": self.round, **fields, "bytes": payload_bytes}


class ClassFigures(Record):
    """One class of a classification: of those taken for it how many were it (precision), of its
    `support` samples how many were found (recall), and the harmonic mean of both."""

    precision: Fraction
    recall: Fraction
    f1: Fraction
    support: Count


class EvaluationDetails(Record):
    """One evaluation in full. Of a classification `macro_f1`, the figures of each class, and how
    many samples of each class were taken for each: `confusion[true][predicted]`, unless there are
    more than 256 classes.

    `device_scores[n]`: device n's score on the same samples, weighted so that their labels are
    distributed as those of its training samples are (empty: not asked for).
    """

    round: Count
    macro_f1: Fraction | None = None
    class_names: tuple[str, ...] = ()
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[tuple[Count, ...], ...] = ()
    device_scores: tuple[DeviceScore, ...] = ()

    @model_validator(mode="after")
    def _of_all_classes(self) -> "EvaluationDetails":
        count = len(self.class_names)
        sizes = {len(self.classes), *map(len, self.confusion)}
        if self.confusion:
            sizes.add(len(self.confusion))
        if sizes != {count}:
            raise ValueError(f"{count} class_names do not fit classes and confusion of {sizes}")
        return self


class EvaluationFile(Record):
    """`evaluation.json`: of the last round that was evaluated, and of the best."""

    last: EvaluationDetails
    best: EvaluationDetails | None = None


# where a run has it
DETAILS = "evaluation.json"


def read_details(run: Path) -> EvaluationFile | None:
    """What a run's `evaluation.json` holds; None without one. Raises RunError for a broken one."""
    path = run / DETAILS
    return parse(EvaluationFile, str(path), path.read_bytes()) if path.is_file() else None


class Partition(Record):
    """Samples by label and device: `counts[device][label]`."""

    class_names: tuple[str, ...]
    counts: tuple[tuple[Count, ...], ...]

    @model_validator(mode="after")
    def _a_count_a_class(self) -> "Partition":
        for device, row in enumerate(self.counts):
            if len(row) != len(self.class_names):
                classes = len(self.class_names)
                raise ValueError(f"counts[{device}] has {len(row)} values for {classes} classes")
        return self


class DevicePartBeside(Record):
    """The same run with its device part frozen, or trained: planned, not run.

    `scheme`: the other one. A round after the first takes `delay_s` then and sends these bytes, the
    first takes `first_delay_s`. `gain`: what training the part brings at this cut by the profile of
    model and data, with its standard error, of `accuracy_trained` [shares of the test samples].
    """

    scheme: str
    delay_s: Number
    first_delay_s: Number
    uplink_bytes: Count
    downlink_bytes: Count
    gain: float
    gain_error: Number
    accuracy_trained: Fraction


class Summary(Record):
    """The whole run in numbers.

    `model_bytes` are the weights of the whole model, `unsplit_peak_bytes` what fine-tuning it on
    one device would need; `device_memory_bytes` (by kind) sums to `device_peak_bytes`. `clock`:
    whether delays were simulated or are those of real devices and links. `devices_on`, `server_on`:
    what computed either part, and the numbers of its base.

    Scores are those of rounds: before training (`_first`), of the last (`_final`) and of
    `best_round` (`_best`). Where rounds were not evaluated on the whole test split, but on
    `evaluated_samples` of it or of a validation split (`evaluated_on`), the test split's
    `test_samples` were seen at the end alone: `_test_final`, `_test_best`. `macro_f1` and
    `device_scores` are as in `EvaluationDetails`. `stopped_early`: why a
    run ended before its last round. `beside`: the same run with its device part frozen or trained,
    where somebody has measured what training it brings at this cut.
    """

    clock: Literal["virtual", "measured"]
    scheme: str
    model: str
    model_source: str
    data: str
    data_source: str
    task: str
    cut: Count
    blocks: Count
    devices: Count
    devices_on: str = "cpu, float32"
    server_on: str = "cpu, float32"
    samples_per_device: tuple[Count, ...]
    skipped_samples: Count
    left_out: tuple[LeftOut, ...]
    device_peak_bytes: Count
    device_memory_bytes: Mapping[str, Count]
    server_peak_bytes: Count
    server_memory_bytes: Mapping[str, Count]
    device_memory_limit_bytes: Count | None
    model_bytes: Count
    unsplit_peak_bytes: Count
    seed: Count
    config_sha256: str
    beside: DevicePartBeside | None = None
    rounds: Count
    stopped_early: str | None = None
    accuracy_first: Accuracy = None
    accuracy_final: Accuracy = None
    perplexity_first: Perplexity = None
    perplexity_final: Perplexity = None
    best_round: Count | None = None
    accuracy_best: Accuracy = None
    perplexity_best: Perplexity = None
    macro_f1_final: Fraction | None = None
    macro_f1_best: Fraction | None = None
    device_scores_final: tuple[DeviceScore, ...] = ()
    device_scores_best: tuple[DeviceScore, ...] = ()
    evaluated_on: Literal["test", "validation"] = "test"
    evaluated_samples: Count | None = None
    test_samples: Count | None = None
    accuracy_test_final: Accuracy = None
    accuracy_test_best: Accuracy = None
    perplexity_test_final: Perplexity = None
    perplexity_test_best: Perplexity = None
    uplink_bytes: Count
    downlink_bytes: Count
    uncompressed_uplink_bytes: Count
    uncompressed_downlink_bytes: Count
    delay_s: Number
    wall_s: Number
    delay_by_phase_s: PhaseSeconds

    @property
    def score_first(self) -> Score:
        """Before training."""
        return self._score("_first")

    @property
    def score_final(self) -> Score:
        """After the last round."""
        return self._score("_final")

    @property
    def score_best(self) -> Score | None:
        """Of the best round."""
        return self._known_score("_best")

    @property
    def test_scores(self) -> tuple[Score, Score] | None:
        """On the test split, after the last and the best round, where rounds saw other samples."""
        final, best = self._known_score("_test_final"), self._known_score("_test_best")
        return None if final is None or best is None else (final, best)

    @model_validator(mode="after")
    def _has_scores(self) -> "Summary":
        self._check_score("_first")
        self._check_score("_final")
        return self


R = TypeVar("R", bound=Record)


def parse(kind: type[R], where: str, text: str | bytes) -> R:
    """The record that JSON text holds. Raises RunError, naming `where`, the key and its value."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as problem:
        raise RunError(f"{where}{_problem(kind, problem.errors()[0])}") from None


def parse_round(where: str, text: str | bytes, number: int) -> RoundRecord:
    """The record of round `number`. Raises RunError, for another round's too."""
    record: RoundRecord
    record = parse(TrainedRound, where, text) if number else parse(FirstRound, where, text)
    if record.round != number:
        raise RunError(f"{where}: is round {record.round}, not {number}")
    return record


def _problem(kind: type[Record], error: ErrorDetails) -> str:
    # nobody sees that a line of the trace is an event and a number
    path = [part for part in error["loc"] if part != "event"]
    at = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    match error["type"]:
        case "missing":
            return f": the key {at!r} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f": unknown key {at!r}; {nearest(at, list(kind.model_fields))}"
        case "json_invalid":
            return f": not valid JSON ({message.removeprefix('Invalid JSON: ')})"
        case "model_type" | "model_attributes_type":
            return f": is {quoted(error['input'])}, should be an object"
        case "value_error":
            return f": {at and at + ': '}{message}"
    return f": {at} is {quoted(error['input'])}, should be {message}"


class Observer(ABC):
    """Told what happens while a run goes on; it must not change anything."""

    @abstractmethod
    def round_begins(self, number: int, rounds: int) -> None:
        """Round `number` of `rounds` begins; 0: the evaluation before training."""

    @abstractmethod
    def step_done(self, round_number: int, done: int, total: int) -> None:
        """`done` of `total` local steps of the round have ended."""

    @abstractmethod
    def round_done(self, record: RoundRecord) -> None:
        """A round has been evaluated and recorded (0: before training)."""


@final
class Silent(Observer):
    """An observer that shows nothing."""

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Nothing."""

    def round_done(self, record: RoundRecord) -> None:
        """Nothing."""


# The lines of a log are JSON objects with a `round` that never falls. A round is found by halving
# the file, so that a log of millions of lines is never read as a whole.


def lines_of_round(path: Path, number: int) -> Iterator[str]:
    """The lines of one round as text, and after them whatever is no line of a round.

    Raises OSError, UnicodeDecodeError.
    """
    with path.open("rb") as file:
        file.seek(_start(file, number))
        for line in file:
            if _round_of(line) in (number, math.inf):
                yield line.decode("utf-8")
            else:
                return


def rounds_of(path: Path) -> list[float]:
    """The round of every line; infinite for one that was cut short. Raises OSError."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [_round_of(line) for line in file]


def cut_after(path: Path, finished: int) -> None:
    """Drop the lines of rounds after `finished`, and a last line that was cut short.

    Raises OSError.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = _start(file, finished + 1)
        if end < file.seek(0, os.SEEK_END):
            file.truncate(end)
            os.fsync(file.fileno())


def _start(file: BinaryIO, number: int) -> int:
    """Where the first line of round `number` or a later one begins; the file's end if none does."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while low < high:
        middle = (low + high) // 2
        begin = _line_at(file, middle)
        line = file.readline()
        if begin >= high or not line or _round_of(line) >= number:
            high = middle
        else:
            low = begin + len(line)
    return _line_at(file, low)


def _line_at(file: BinaryIO, place: int) -> int:
    """Move to the first line that begins at `place` or after it; where that is."""
    if place == 0:
        file.seek(0)
        return 0
    file.seek(place - 1)
    file.readline()
    return file.tell()


def _round_of(line: bytes) -> float:
    """The round that a line belongs to; infinite for a line that was cut short."""
    try:
        return int(json.loads(line)["round"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
