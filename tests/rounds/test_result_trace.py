"""The trace is what Perfetto reads: records with all fields, lines on which nothing overlaps."""

import itertools
import json
from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cutlayer.rounds.result import RoundTimeline, _Track, chrome_trace_of
from cutlayer.rounds.schemes import SCHEMES, SFT, Phase, ServerOrder
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceWork, Sharing, SharingRules
from examples import at_most
from rounds.works import rules, work, works


def traced(timeline: RoundTimeline) -> str:
    """The whole round's."""
    return chrome_trace_of(timeline.scheme, list(timeline.events()))


def _check(text: str) -> list[dict[str, Any]]:
    """What the format asks of complete events and metadata; the complete ones are returned."""
    trace = json.loads(text)
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    assert trace["displayTimeUnit"] == "ms"
    slices, lines = [], set()
    for record in trace["traceEvents"]:
        assert isinstance(record["name"], str) and record["name"]
        assert isinstance(record["pid"], int) and isinstance(record["tid"], int)
        if record["ph"] == "M":
            assert record["name"] in ("process_name", "process_sort_index", "thread_name")
            assert len(record["args"]) == 1
            if record["name"] == "thread_name":
                lines.add((record["pid"], record["tid"]))
            continue
        assert record["ph"] == "X"
        assert record["ts"] >= 0 and record["dur"] >= 0
        assert set(record["args"]) == {"device", "local_step", "micro_batch", "payload_bytes"}
        slices.append(record)
    assert {(record["pid"], record["tid"]) for record in slices} == lines
    return slices


@at_most(40)
@given(works(), rules, st.sampled_from(sorted(SCHEMES)))
def test_every_event_is_there_and_none_overlaps(
    devices: list[DeviceWork], rules: SharingRules, name: str
) -> None:
    scheme = SCHEMES[name]
    if scheme.server is not ServerOrder.ARRIVAL and max(w.micro_batches for w in devices) > 1:
        scheme = SFT
    timeline = simulate(scheme, devices, rules)
    slices = _check(traced(timeline))
    events = list(timeline.events())
    mine = [record for record in slices if record["pid"] == _Track.DEVICES]
    assert [record["name"] for record in mine] == [event.phase for event in events]
    by_line = defaultdict(list)
    for record in slices:
        by_line[record["pid"], record["tid"]].append((record["ts"], record["dur"]))
    for spans in by_line.values():
        for (start, length), (after, _) in itertools.pairwise(sorted(spans)):
            # two roundings of seconds into microseconds and back
            assert after >= start + length - 1e-9 * (1 + start + length)


def test_a_trace_by_hand() -> None:
    """Two devices: the second's mini-batch waits a second for the server, its only line."""
    timeline = simulate(SFT, [work([1.0, 2.0, 1.0, 1.0, 1.0], 1, 0.5) for _ in range(2)])
    slices = _check(traced(timeline))
    waits = [record for record in slices if record["name"] == Phase.SERVER_QUEUE]
    assert [(w["ts"], w["dur"], w["args"]["device"]) for w in waits] == [(3.5e6, 1e6, 1)]
    server = [record for record in slices if record["pid"] == _Track.SERVER]
    assert [(s["name"], s["ts"], s["tid"]) for s in server] == [
        ("device 0", 3.5e6, 0),
        ("device 1", 4.5e6, 0),
    ]
    up = [record for record in slices if record["cat"] == Phase.ACTIVATION_UP]
    assert {record["args"]["payload_bytes"] for record in up} == {2}


def test_a_trace_of_some_devices() -> None:
    timeline = simulate(
        SFT, [work([1.0] * 5) for _ in range(5)], SharingRules(uplink=Sharing.SHARED)
    )
    slices = _check(chrome_trace_of(SFT, [*timeline.device_events(1), *timeline.device_events(4)]))
    assert {record["args"]["device"] for record in slices} == {1, 4}


def test_micro_batches_that_overlap_have_a_line_each() -> None:
    device = work([1.0] * 5, micro_batches=3)
    trace = json.loads(traced(simulate(SCHEMES["sft-overlap"], [device])))
    names = [
        record["args"]["name"]
        for record in trace["traceEvents"]
        if record["name"] == "thread_name" and record["pid"] == _Track.DEVICES
    ]
    assert names == ["device 0", "device 0, micro-batch 1", "device 0, micro-batch 2"]


def test_local_steps_that_overlap_have_a_line_each() -> None:
    timeline = simulate(SCHEMES["sft-frozen"], [work([1.0] * 5, 2), work([2.0] * 5, 2)])
    slices = _check(traced(timeline))
    assert {record["tid"] for record in slices if record["pid"] == _Track.DEVICES} == {0, 1, 2, 3}
