"""A run's status as Prometheus names things: base units, one family a quantity.

Knows the status and no connection. What nobody measured is left out, it is not 0.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cutlayer.net.operations.status import DeviceStatus, RunStatus
from cutlayer.train.records import RoundRecord, TrainedRound
from cutlayer.version import __version__


@final
class StatusMetrics(Collector):
    """The families of what `ask` says."""

    def __init__(self, ask: Callable[[], RunStatus]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        """The values now."""
        status = self._ask()
        carried = status.payload_bytes
        yield _labelled("build_info", "the server's version", "version", {__version__: 1})
        yield from _of_run(status)
        yield from _of_devices(status.devices)
        yield _counter("payload_bytes", "sent and received, by payload", "payload", carried)
        refused = status.process.refused_connections
        yield CounterMetricFamily(
            "cutlayer_refused_connections", "refused by the listener", refused
        )
        if status.last is not None:
            yield from _of_round(status.last)


def _of_run(status: RunStatus) -> Iterator[Metric]:
    yield from _gauges(
        ("round", "round in progress", status.round),
        ("rounds", "rounds of the run", status.rounds),
        ("round_elapsed_seconds", "since the round in progress began", status.round_s),
        ("round_deadline_seconds", "when a quorum closes a round", status.deadline_s),
        ("quorum_devices", "devices that a round needs at its deadline", status.quorum),
        ("missing_adapters", "short of the quorum after the deadline", status.missing_adapters),
        ("held_bytes", "buffered for frames of devices", status.process.held.now_bytes),
        ("held_bytes_limit", "the limit of that", status.process.held.most_bytes),
        ("finished", "whether the run has ended", status.finished),
        ("failed", "whether the run has failed", status.process.failure is not None),
    )


def _of_devices(devices: tuple[DeviceStatus, ...]) -> Iterator[Metric]:
    here = sum(device.connected for device in devices)
    done = sum(device.adapter_sent for device in devices)
    yield from _gauges(
        ("devices", "devices of the run", len(devices)),
        ("devices_connected", "devices that are connected", here),
        ("devices_done", "devices whose adapter of the round has arrived", done),
    )
    named = {device.name: device for device in devices if device.name is not None}
    connected = {name: float(device.connected) for name, device in named.items()}
    steps = {name: device.local_steps for name, device in named.items()}
    up = {name: device.uplink_bytes for name, device in named.items()}
    down = {name: device.downlink_bytes for name, device in named.items()}
    yield _labelled("device_connected", "whether it is connected", "device", connected)
    yield _labelled("device_local_steps", "done of the round in progress", "device", steps)
    yield _counter("device_uplink_bytes", "received from a device", "device", up)
    yield _counter("device_downlink_bytes", "sent to a device", "device", down)


def _of_round(last: RoundRecord) -> Iterator[Metric]:
    measure, value = last.score.measure, last.score.value
    score = "accuracy_ratio" if measure == "accuracy" else measure
    yield from _gauges(
        ("last_round", "the last finished round; 0 is before training", last.round),
        (f"last_round_{score}", "on the test split after it", value),
        ("last_round_eval_loss", "on the test split after it", last.eval_loss),
    )
    if isinstance(last, TrainedRound):
        yield from _gauges(
            ("last_round_seconds", "of the last finished round", last.delay_s),
            ("last_round_train_loss", "mean of its local steps", last.train_loss),
        )
        name, phases = "last_round_phase_seconds", last.delay_by_phase_s
        yield _labelled(name, "of the slowest device, by phase", "phase", phases)


def _gauges(*rows: tuple[str, str, float | None]) -> Iterator[Metric]:
    for name, meaning, value in rows:
        if value is not None and math.isfinite(value):
            yield GaugeMetricFamily(f"cutlayer_{name}", meaning, float(value))


def _labelled(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    return _filled(GaugeMetricFamily(f"cutlayer_{name}", meaning, labels=[label]), values)


def _counter(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    return _filled(CounterMetricFamily(f"cutlayer_{name}", meaning, labels=[label]), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for key, value in values.items():
        family.add_metric([key], value)
    return family
