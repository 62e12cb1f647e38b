"""A configuration with the rates that a networked run really had: what devices and server reached,
and how fast their links were, from the seconds that its trace tells.

The first round warms up, and is left out where there are others. A device's link is taken as that
part of a bandwidth that its share was. Knows runs and configurations; plans are `jobs.plan`'s.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, RunError
from cutlayer.jobs.build import make_accounting
from cutlayer.jobs.model_spec import planned_model
from cutlayer.jobs.scheme import make_scheme, same_asset
from cutlayer.report.run_reader import Run, read_run, trained
from cutlayer.rounds.costs import recomputed_flops
from cutlayer.rounds.result import TimelineEvent
from cutlayer.rounds.schemes import Phase
from cutlayer.rounds.work import trained_model
from cutlayer.spec import ActivationPolicy, MiniBatch
from cutlayer.units import BITS_PER_BYTE

_WARM_UP = 1
# of long runs the last rounds: a machine's load changes
_RECENT = 5
# the SNR that stands for the fastest link: what a bandwidth carries is then a rate like any other
_FASTEST_BIT_S_HZ = math.log2(1 + 10**3)
_COMPUTING = (Phase.DEVICE_FORWARD, Phase.DEVICE_BACKWARD)
_UP = (Phase.ACTIVATION_UP, Phase.ADAPTER_UP)
_DOWN = (Phase.GRADIENT_DOWN, Phase.MODEL_DISTRIBUTION, Phase.ADAPTER_DOWN)


@dataclass(frozen=True)
class LearnedRates:
    """What was reached in `rounds` of a run: each device's FLOP/s and its link's bit/s at the whole
    bandwidth, and the server's FLOP/s."""

    path: Path
    rounds: tuple[int, ...]
    device_flops_per_s: tuple[float, ...]
    uplink_bit_per_s: tuple[float, ...]
    downlink_bit_per_s: tuple[float, ...]
    server_flops_per_s: float

    def into(self, config: Config) -> Config:
        """The configuration with these rates: compute rates as lists, and a channel whose SNR gives
        each link its rate at its share."""
        bandwidth_hz = max(*self.uplink_bit_per_s, *self.downlink_bit_per_s) / _FASTEST_BIT_S_HZ
        values = config.model_dump(mode="json", exclude_unset=True)
        values["channel"] = {"name": "snr", "bandwidth_hz": bandwidth_hz}
        values["devices"] = values.get("devices", {}) | {
            "flops_per_s": list(self.device_flops_per_s),
            "flops_spread": 0.0,
            "uplink_snr_db": [_snr_db(rate / bandwidth_hz) for rate in self.uplink_bit_per_s],
            "downlink_snr_db": [_snr_db(rate / bandwidth_hz) for rate in self.downlink_bit_per_s],
        }
        values["server"] = values.get("server", {}) | {"flops_per_s": self.server_flops_per_s}
        return Config.model_validate(values)

    def __str__(self) -> str:
        first, last = self.rounds[0], self.rounds[-1]
        rounds = f"round {first}" if first == last else f"rounds {first} to {last}"
        warm = ", which warms up" if last == _WARM_UP else ""
        return (
            f"learned from {rounds} of {self.path}{warm}: devices reach"
            f" {_range(self.device_flops_per_s, 1e9)} GFLOP/s, the server"
            f" {self.server_flops_per_s / 1e9:.3g}; at the whole bandwidth"
            f" {_range(self.uplink_bit_per_s, 1e6)} Mbit/s up,"
            f" {_range(self.downlink_bit_per_s, 1e6)} down; in place of the configured rates and"
            " channel"
        )


def learned_rates(config: Config, path: Path) -> LearnedRates:
    """From the run in `path`, for a plan of `config`.

    Raises RunError for what is no run or was not measured, and ConfigError for a run of another
    model, data set, number of devices or base, or where a profile says what devices reach.
    """
    run = read_run(path)
    _check_measured(run)
    _check_same(config, run)
    rounds = tuple(record.round for record in trained(run.rounds))
    if not rounds:
        raise RunError(f"{path} has not finished a round yet: wait until it has")
    rounds = (rounds[_WARM_UP:] or rounds)[-_RECENT:]
    seen = [_Seen.of(run.trace[number]) for number in rounds]
    count = config.devices.count
    missing = [n for n in range(count) if not any(n in one.steps for one in seen)]
    if missing:
        raise RunError(
            f"{path}: in rounds {rounds[0]} to {rounds[-1]} devices {missing} were not observed"
            " from beginning to end, so that nothing is known of them: give a run that has them"
        )
    shares = {record.round: record.shares for record in trained(run.rounds)}
    whole = [shares[number] or (1.0 / count,) * count for number in rounds]
    device, server = _step_flops(run.config)
    return LearnedRates(
        path=path,
        rounds=rounds,
        device_flops_per_s=tuple(
            device
            * sum(one.steps.get(n, 0) for one in seen)
            / sum(one.compute_s.get(n, 0.0) for one in seen)
            for n in range(count)
        ),
        uplink_bit_per_s=_rates(count, [one.up for one in seen], whole),
        downlink_bit_per_s=_rates(count, [one.down for one in seen], whole),
        server_flops_per_s=server
        * sum(sum(one.steps.values()) for one in seen)
        / sum(one.server_s for one in seen),
    )


@dataclass(frozen=True)
class _Seen:
    """A round by device: local steps, seconds of computing, and (bits, seconds) each way of each
    transfer; and the seconds for which the server computed."""

    steps: dict[int, int]
    compute_s: dict[int, float]
    up: dict[int, tuple[float, float]]
    down: dict[int, tuple[float, float]]
    server_s: float

    @staticmethod
    def of(events: Sequence[TimelineEvent]) -> "_Seen":
        """From its trace."""
        local: dict[int, set[int | None]] = defaultdict(set)
        compute_s: dict[int, float] = defaultdict(float)
        for one in events:
            if one.phase in _COMPUTING:
                local[one.device].add(one.local_step)
                compute_s[one.device] += one.end_s - one.start_s
        return _Seen(
            {device: len(steps) for device, steps in local.items()},
            compute_s,
            _sent(events, _UP),
            _sent(events, _DOWN),
            _busy_s(one for one in events if one.phase is Phase.SERVER_COMPUTE),
        )


def _sent(
    events: Sequence[TimelineEvent], phases: Sequence[Phase]
) -> dict[int, tuple[float, float]]:
    found: dict[int, tuple[float, float]] = {}
    for one in events:
        if one.phase in phases and one.payload_bytes:
            bits, seconds = found.get(one.device, (0.0, 0.0))
            bits += BITS_PER_BYTE * one.payload_bytes
            found[one.device] = bits, seconds + one.end_s - one.start_s
    return found


def _busy_s(events: Iterable[TimelineEvent]) -> float:
    """Seconds in which any of them went on. One ends where the next begins at the latest: the
    server was free then, though a reply may still have waited for the journal; what began together
    was one pass."""
    ends: dict[float, float] = {}
    for one in events:
        ends[one.start_s] = max(one.end_s, ends.get(one.start_s, 0.0))
    starts = sorted(ends)
    following = [*starts[1:], math.inf]
    return sum(
        min(ends[start], then) - start for start, then in zip(starts, following, strict=True)
    )


def _rates(
    count: int,
    seen: Sequence[dict[int, tuple[float, float]]],
    shares: Sequence[Sequence[float]],
) -> tuple[float, ...]:
    """Each device's rate at the whole bandwidth [bit/s]."""
    rates = []
    for n in range(count):
        bits = sum(one[n][0] / own[n] for one, own in zip(seen, shares, strict=True) if n in one)
        seconds = sum(one[n][1] for one in seen if n in one)
        rates.append(max(bits / max(seconds, 1e-9), 1.0))
    return tuple(rates)


def _step_flops(config: Config) -> tuple[float, float]:
    """What a local step of the run computes, on the device and on the server, as plans count it."""
    planned, scheme = planned_model(config), make_scheme(config)
    batch = MiniBatch(config.training.batch_size, planned.tokens)
    model = trained_model(planned.model, scheme, config.model.cut)
    flops = make_accounting(config).flops(model, config.model.cut, batch, scheme.trained)
    if not scheme.trains_device:
        return flops.device_forward, flops.server
    held = ActivationPolicy(config.devices.activation_memory)
    again = recomputed_flops(model, batch, flops, held)
    return flops.device_forward + flops.device_backward + again, flops.server


def _check_measured(run: Run) -> None:
    """Raises RunError for a simulated run."""
    path = run.path / "fingerprint.json"
    try:
        noted: Any = json.loads(path.read_text(encoding="utf-8"))
        command = noted["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read, so nobody knows whose seconds it has") from error
    if command != "serve":
        raise RunError(
            f"{run.path} was simulated: its seconds are those of devices.flops_per_s and the"
            " channel, not of a machine; give a run of `cutlayer serve` or `cutlayer lab`, or"
            " measure machines with `cutlayer bench-device`"
        )


def _check_same(config: Config, run: Run) -> None:
    """Raises ConfigError for a run of something else."""
    own, other = config, run.config
    if not (
        same_asset(other.model.name, own.model.name) and same_asset(other.data.name, own.data.name)
    ):
        raise ConfigError(
            f"{run.path} trained {other.model.name} on {other.data.name}, and the plan is for"
            f" {own.model.name} on {own.data.name}: seconds of one do not hold for the other; give"
            " a run of the same, or measure machines with `cutlayer bench-device`"
        )
    if other.devices.count != own.devices.count:
        raise ConfigError(
            f"{run.path} had {other.devices.count} devices, and devices.count is"
            f" {own.devices.count}: plan for as many, of which each is known"
        )
    for section, base, planned in (
        ("devices", other.devices.base, own.devices.base),
        ("server", other.server.base, own.server.base),
    ):
        if base != planned:
            raise ConfigError(
                f"{run.path} held {section}.base {base}, and the plan is for {planned}: rates of"
                " one do not hold for the other; plan for the run's base, or measure machines with"
                " `cutlayer bench-device`"
            )
    for section, profile in (("devices", own.devices.profile), ("server", own.server.profile)):
        if profile is not None:
            raise ConfigError(
                f"{section}.profile and a run to learn from both say what was reached: leave one"
                " of them out"
            )


def _snr_db(bit_per_s_hz: float) -> float:
    """The SNR at which a bandwidth carries so much. Shannon."""
    return 10 * math.log10(math.expm1(bit_per_s_hz * math.log(2)))


def _range(values: Sequence[float], unit: float) -> str:
    least, most = (f"{value / unit:.3g}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"
