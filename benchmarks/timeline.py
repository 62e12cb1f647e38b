"""The timeline at 10,000 devices of 100 local steps, and beside SimPy on the same smaller rounds.

    python benchmarks/timeline.py [--quick] [--json FILE]

See README.md here for what each figure answers. Needs `pip install . simpy`.
"""

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import simpy

from cutlayer.channel.rates import LinkRates
from cutlayer.rounds.schemes import SCHEMES, SFT, Phase, Place, Step
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, Duplex, Sharing, SharingRules

IN_TURN = SharingRules(1, Sharing.IN_TURN, Sharing.IN_TURN)
SHARED = SharingRules(1, Sharing.SHARED, Sharing.SHARED)
TWO_WORKERS = SharingRules(server_workers=2)
# more devices share the server, the less each brings: it is busy four fifths of the time
_SERVER_LOAD = 0.8
_STEP_S = 5.0


@dataclass(frozen=True)
class Case:
    """A round to time: what is simulated, by how many micro-batches a mini-batch goes, and by how
    much there are fewer devices than in the other rows."""

    name: str
    scheme: str
    rules: SharingRules
    micro_batches: int = 1
    fewer: int = 1


CASES = (
    Case("static shares", "sft", SharingRules()),
    Case("two server workers", "sft", TWO_WORKERS),
    Case("whole bandwidth in turn", "sft", IN_TURN),
    Case("shared bandwidth", "sft", SHARED),
    Case(
        "shared bandwidth, half duplex",
        "sft",
        SharingRules(1, Sharing.SHARED, Sharing.SHARED, Duplex.HALF),
    ),
    Case("server in device order", "splitlora", SharingRules()),
    Case("server together, barrier", "splitlora-paper", SharingRules()),
    Case("devices in turn", "sl", SharingRules()),
    Case("no server", "fl-lora", SharingRules()),
    Case("4 micro-batches overlap", "sft-overlap", SharingRules(), 4, 5),
    Case("4 overlap, bandwidth in turn", "sft-overlap", IN_TURN, 4, 5),
    Case("4 overlap, shared bandwidth", "sft-overlap", SHARED, 4, 5),
)
WITH_SIMPY = (
    Case("static shares", "sft", SharingRules()),
    Case("two server workers", "sft", TWO_WORKERS),
    Case("whole bandwidth in turn", "sft", IN_TURN),
)


@dataclass(frozen=True)
class Timed:
    """Processor seconds of one thread: making the work, simulating, all devices' phases.

    `steps_per_s`: steps of devices' local steps (each micro-batch's) over the sum of the three.
    """

    name: str
    devices: int
    local_steps: int
    micro_batches: int
    build_s: float
    simulate_s: float
    phases_s: float
    total_s: float
    steps_per_s: float


@dataclass(frozen=True)
class Beside:
    """The same round by both: processor seconds, their ratio, and by how much the delays differ."""

    name: str
    devices: int
    local_steps: int
    ours_s: float
    simpy_s: float
    times_faster: float
    delay_difference: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer devices: within 60 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    arguments = parser.parse_args(words)
    devices, local_steps = (1000, 20) if arguments.quick else (10_000, 100)
    small = (100, 10) if arguments.quick else (500, 20)
    timed = []
    print(f"{'':26}{'devices':>9}{'steps':>7}{'M':>3}{'build':>8}{'simulate':>10}", end="")
    print(f"{'phases':>8}{'total s':>9}{'steps/s':>10}")
    for case in CASES:
        timed.append(_timed(case, devices // case.fewer, local_steps // case.micro_batches))
        _print_timed(timed[-1])
    print(f"\n{'':26}{'devices':>9}{'steps':>7}{'ours s':>9}{'SimPy s':>9}{'x':>7}{'delays':>9}")
    beside = []
    for case in WITH_SIMPY:
        beside.append(_beside(case, *small))
        _print_beside(beside[-1])
    if arguments.json:
        about = {"python": platform.python_version(), "simpy": simpy.__version__}
        figures = {"timeline": [asdict(t) for t in timed], "simpy": [asdict(b) for b in beside]}
        text = json.dumps({"about": about, **figures}, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _timed(case: Case, devices: int, local_steps: int) -> Timed:
    gc.collect()
    started = time.process_time()
    work = _work(devices, local_steps, case.micro_batches)
    built = time.process_time()
    timeline = simulate(SCHEMES[case.scheme], work, case.rules)
    simulated = time.process_time()
    for device in range(devices):
        timeline.phase_seconds(device)
    ended = time.process_time()
    steps = devices * local_steps * case.micro_batches * len(SCHEMES[case.scheme].local)
    return Timed(
        case.name,
        devices,
        local_steps,
        case.micro_batches,
        build_s=built - started,
        simulate_s=simulated - built,
        phases_s=ended - simulated,
        total_s=ended - started,
        steps_per_s=steps / (ended - started),
    )


def _work(devices: int, local_steps: int, micro_batches: int) -> list[DeviceWork]:
    """Devices whose steps take about a second, the server's so long that it is nearly busy."""
    rng = np.random.default_rng(0)
    whole = 8.0 * devices
    rates = DeviceRates(1.0, 1.0, LinkRates(8.0, 8.0, 8.0, whole, whole))
    repeats = local_steps * micro_batches
    served = _SERVER_LOAD * _STEP_S / devices
    phases = (
        Phase.DEVICE_FORWARD,
        Phase.ACTIVATION_UP,
        Phase.GRADIENT_DOWN,
        Phase.DEVICE_BACKWARD,
        Phase.UPPER_COMPUTE,
    )
    work = []
    for _ in range(devices):
        amounts = {phase: rng.uniform(0.5, 1.5, repeats) for phase in phases}
        amounts[Phase.SERVER_COMPUTE] = rng.uniform(0.5, 1.5, repeats) * served
        for phase in (Phase.MODEL_DISTRIBUTION, Phase.ADAPTER_UP, Phase.ADAPTER_DOWN):
            amounts[phase] = np.ones(1)
        work.append(DeviceWork(amounts, rates, local_steps, micro_batches))
    return work


def _beside(case: Case, devices: int, local_steps: int) -> Beside:
    work = _work(devices, local_steps, 1)
    started = time.process_time()
    ours = simulate(SFT, work, case.rules).delay_s
    middle = time.process_time()
    theirs = _by_simpy(work, case.rules)
    ended = time.process_time()
    return Beside(
        case.name,
        devices,
        local_steps,
        ours_s=middle - started,
        simpy_s=ended - middle,
        times_faster=(ended - middle) / (middle - started),
        delay_difference=abs(ours - theirs) / theirs,
    )


def _by_simpy(work: Sequence[DeviceWork], rules: SharingRules) -> float:
    """The delay of the same round, a SimPy process a device."""
    world = simpy.Environment()
    stations = {Place.SERVER: simpy.Resource(world, rules.server_workers)}
    for place in (Place.UPLINK, Place.DOWNLINK):
        if rules.whole_bandwidth(place):
            stations[place] = simpy.Resource(world, 1)
    for device in work:
        world.process(_device(world, stations, device, rules))
    world.run()
    return float(world.now)


def _device(
    world: simpy.Environment,
    stations: dict[Place, simpy.Resource],
    work: DeviceWork,
    rules: SharingRules,
) -> Iterator[simpy.Event]:
    def seconds(step: Step, repeats: int) -> list[float]:
        return work.seconds(step, repeats, rules.whole_bandwidth(step.place)).tolist()

    local = [seconds(step, work.local_steps) for step in SFT.local]
    yield world.timeout(seconds(SFT.opening[0], 1)[0])
    for number in range(work.local_steps):
        for step, column in zip(SFT.local, local, strict=True):
            yield from _visit(world, stations.get(step.place), column[number])
    last = SFT.closing[0]
    yield from _visit(world, stations.get(last.place), seconds(last, 1)[0])


def _visit(
    world: simpy.Environment, station: simpy.Resource | None, seconds: float
) -> Iterator[simpy.Event]:
    if station is None:
        yield world.timeout(seconds)
        return
    with station.request() as turn:
        yield turn
        yield world.timeout(seconds)


def _print_timed(row: Timed) -> None:
    print(
        f"{row.name:26}{row.devices:9}{row.local_steps:7}{row.micro_batches:3}{row.build_s:8.2f}"
        f"{row.simulate_s:10.2f}{row.phases_s:8.2f}{row.total_s:9.2f}{row.steps_per_s:10.0f}",
        flush=True,
    )


def _print_beside(row: Beside) -> None:
    print(
        f"{row.name:26}{row.devices:9}{row.local_steps:7}{row.ours_s:9.3f}{row.simpy_s:9.3f}"
        f"{row.times_faster:7.1f}{row.delay_difference:9.0e}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
