"""A run as its directory tells it: rounds, partition, trace and summary as frozen values.

Knows neither the files they come from (`run_reader`) nor how they are shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Score:
    """How good the model is on held-out data: a fraction correct or a perplexity (low is good)."""

    measure: Literal["accuracy", "perplexity"]
    value: float


@dataclass(frozen=True)
class Traffic:
    """Bytes over the wireless link by direction, and what fp32 would have taken."""

    uplink_bytes: int
    downlink_bytes: int
    uncompressed_uplink_bytes: int
    uncompressed_downlink_bytes: int


@dataclass(frozen=True)
class RoundWork:
    """What training for one round took; delays are virtual seconds or measured ones, as the run's
    clock is, and `wall_s` real ones.

    `delay_by_phase_s` follows the slowest device and sums to `delay_s`; `virtual_time_s` is the sum
    of all delays so far; `device_delay_s[n]` and `device_delay_by_phase_s[n]` are device n's own.
    `shares[n]` is device n's part of the band (empty in records made before it was written down).
    """

    train_loss: float
    shares: tuple[float, ...]
    delay_s: float
    delay_by_phase_s: Mapping[str, float]
    slowest_device: int
    device_delay_s: tuple[float, ...]
    device_delay_by_phase_s: tuple[Mapping[str, float], ...]
    virtual_time_s: float
    traffic: Traffic
    bytes_by_payload: Mapping[str, int]
    wall_s: float


@dataclass(frozen=True)
class RoundRecord:
    """One evaluation and the training before it; round 0 is the model as it came (no `work`)."""

    round: int
    score: Score
    eval_loss: float
    work: RoundWork | None


@dataclass(frozen=True)
class Partition:
    """Samples by label and device: `counts[device][label]`."""

    class_names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TraceStep:
    """One phase of one micro-batch of one device; seconds since its round began.

    `local_step` and `micro_batch` count from 0 and are None where a phase belongs to none.
    """

    round: int
    device: int
    local_step: int | None
    micro_batch: int | None
    phase: str
    start_s: float
    end_s: float
    payload_bytes: int


@dataclass(frozen=True)
class Summary:
    """The whole run in numbers, the values of `summary.json`.

    `model_bytes` are the weights of the whole model, `unsplit_peak_bytes` what fine-tuning it on
    one device would need; `device_memory_bytes` (by kind) sums to `device_peak_bytes`. `clock`:
    whether delays were simulated or are those of real devices and links.
    """

    clock: Literal["virtual", "measured"]
    scheme: str
    model: str
    model_source: str
    data: str
    data_source: str
    task: str
    rounds: int
    score_first: Score
    score_final: Score
    traffic: Traffic
    delay_s: float
    delay_by_phase_s: Mapping[str, float]
    device_peak_bytes: int
    device_memory_bytes: Mapping[str, int]
    device_memory_limit_bytes: int | None
    model_bytes: int
    unsplit_peak_bytes: int
    devices: int
    samples_per_device: tuple[int, ...]
    wall_s: float
    seed: int
    config_sha256: str


@dataclass(frozen=True)
class RunRecord:
    """A run directory as read; of the trace only the last recorded round is kept."""

    config_text: str
    rounds: tuple[RoundRecord, ...]
    partition: Partition
    last_round_steps: tuple[TraceStep, ...]
    summary: Summary
