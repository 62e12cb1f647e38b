"""What plans and simulated rounds take: shares of the bandwidth, and the timeline.

    python -m benchmarks.planner bandwidth [--quick] [--json FILE]
    python -m benchmarks.planner timeline [--quick] [--json FILE]

`bandwidth`: exact, by the paper's Algorithm 3, by SLSQP and by Clarabel. `timeline`: 10,000 devices
of 100 local steps, and beside SimPy on the same smaller rounds. See README.md here for what each
figure answers. They need `pip install . cvxpy clarabel` and `pip install . simpy`.
"""

import argparse
import gc
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy
from scipy.optimize import minimize

from cutlayer.channel.rates import (
    ConstantPower,
    ConstantSnr,
    LinkRates,
    RateCurves,
    RateLaw,
    ShannonRates,
)
from cutlayer.planner.bandwidth import (
    BandwidthProblem,
    BandwidthSolution,
    SolverStatus,
    solve_bandwidth,
)
from cutlayer.rounds.schemes import SCHEMES, SFT, Phase, Place, Step
from cutlayer.rounds.simulate import simulate
from cutlayer.rounds.work import DeviceRates, DeviceWork, Duplex, Sharing, SharingRules
from reproduction.algorithms import PublishedAlgorithm3, TrustRegionAlgorithm3

BAND_HZ = 5e6
MEAN_SNR_DB = 17.0
SPREAD_DB = 30.0
# a round of 10 mini-batches of 64 x 197 x 768 values at 2 bits up and down
ROUND_BITS = 10 * 64 * 197 * 768 * 2.0
# and about as long at a device of 1 GFLOP/s or so, and at the server
FIXED_S = 20.0
FAILED_GAP = 1e-6
CLASSES = ((1, 1), (2, 9), (10, 99), (100, 1000))

CONSTANT_SNR, CONSTANT_POWER = ConstantSnr(), ConstantPower()
Solver = Callable[[BandwidthProblem], BandwidthSolution]
PUBLISHED, TRUST_REGION = PublishedAlgorithm3(), TrustRegionAlgorithm3()


@dataclass(frozen=True)
class Answer:
    """Shares, or none; the solver's steps; whether it said that it had ended well."""

    shares: np.ndarray | None
    steps: int
    ended: bool


@dataclass(frozen=True)
class Contender:
    """A solver, and up to how many devices it is asked within reasonable time."""

    name: str
    solve: Callable[[BandwidthProblem], Answer]
    most_devices: int
    law: RateLaw = CONSTANT_SNR


@dataclass(frozen=True)
class Row:
    """One contender on instances of one size.

    `steps` and `ms` (processor time) are medians, `gap` the largest of those solved."""

    name: str
    devices: int
    instances: int
    steps: float
    ms: float
    gap: float | None
    failed: int


@dataclass(frozen=True)
class Campaign:
    """Instances of a class of sizes, with caps or without.

    `exact_gap`: to its own certificate. `region_distance`: of its deadline to the exact one.
    Failed: no convergence, a share of 0, or more than 1e-6 from the exact deadline.
    """

    least_devices: int
    most_devices: int
    caps: bool
    instances: int
    exact_failed: int
    exact_gap: float
    region_failed: int
    region_distance: float
    published_even_failed: int
    published_random_failed: int


IN_TURN = SharingRules(1, Sharing.IN_TURN, Sharing.IN_TURN)
SHARED = SharingRules(1, Sharing.SHARED, Sharing.SHARED)
HALF_DUPLEX = SharingRules(1, Sharing.SHARED, Sharing.SHARED, Duplex.HALF)
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
    Case("shared bandwidth, half duplex", "sft", HALF_DUPLEX),
    Case("server in device order", "splitlora", SharingRules()),
    Case("server together, barrier", "splitlora-paper", SharingRules()),
    Case("devices in turn", "sl", SharingRules()),
    Case("no server", "fl-lora", SharingRules()),
    Case("4 micro-batches overlap", "sft-overlap", SharingRules(), 4, 5),
    Case("4 overlap, bandwidth in turn", "sft-overlap", IN_TURN, 4, 5),
    Case("4 overlap, shared bandwidth", "sft-overlap", SHARED, 4, 5),
)
WITH_SIMPY = CASES[:3]


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
    commands = parser.add_subparsers(required=True)
    for name, measure in (("bandwidth", _bandwidth), ("timeline", _timeline)):
        command = commands.add_parser(name)
        command.set_defaults(measure=measure)
        command.add_argument("--quick", action="store_true", help="smaller: within 60 s")
        command.add_argument("--json", type=Path, metavar="FILE", help="write every figure by name")
    arguments = parser.parse_args(words)
    found: int = arguments.measure(arguments.quick, arguments.json)
    return found


def _write(path: Path, versions: Mapping[str, str], figures: Mapping[str, Sequence[Any]]) -> None:
    """Rows by the names of their tables, and the versions of what made them."""
    about = {"python": platform.python_version(), **versions}
    tables = {name: [asdict(row) for row in rows] for name, rows in figures.items()}
    text = json.dumps({"about": about, **tables}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _bandwidth(quick: bool, path: Path | None) -> int:
    """By all contenders, and a campaign; 1 if a goal is missed."""
    import clarabel
    import cvxpy

    sizes = ((8, 5), (20, 5), (100, 2)) if quick else SIZES
    print(f"{'':26}{'devices':>9}{'runs':>6}{'steps':>7}{'ms':>10}{'gap':>9}", end="")
    print(f"{'failed':>8}")
    table = []
    for devices, instances in sizes:
        for contender in CONTENDERS:
            if devices <= contender.most_devices:
                table.append(_row(contender, devices, instances))
                _print_row(table[-1])
    count = 100 if quick else 2000
    campaign = _campaign(count, 50 if quick else 1000)
    goals = _goals(table, campaign)
    print()
    for goal, met in goals.items():
        print(f"{goal}: {'yes' if met else 'NO'}")
    if path:
        versions = {
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "cvxpy": cvxpy.__version__,
            "clarabel": clarabel.__version__,
        }
        _write(path, versions, {"table": table, "campaign": campaign})
    return 0 if all(goals.values()) else 1


def _goals(table: Sequence[Row], campaign: Sequence[Campaign]) -> dict[str, bool]:
    exact = [row for row in table if row.name == CONTENDERS[0].name]
    return {
        "exact never fails": not any(row.exact_failed for row in campaign),
        "exact within 1e-9 of its certificate": all(row.exact_gap <= 1e-9 for row in campaign),
        "trust region within 1e-6 of exact": not any(row.region_failed for row in campaign),
        f"exact for {exact[-1].devices} devices in under 5 ms": exact[-1].ms < 5,
    }


def _instance(
    rng: np.random.Generator,
    devices: int,
    spread_db: float = SPREAD_DB,
    cap: float = 1.0,
    law: RateLaw = CONSTANT_SNR,
) -> BandwidthProblem:
    """The paper's setting: alike payloads, compute rates from 0.5 to 1.5, ratios about 17 dB."""
    snr_db = MEAN_SNR_DB + spread_db * rng.uniform(-0.5, 0.5, devices)
    rates = ShannonRates(law, BAND_HZ, snr_db)
    bits = np.full(devices, ROUND_BITS)
    return BandwidthProblem(
        fixed_s=FIXED_S / rng.uniform(0.5, 1.5, devices),
        uplink_bits=bits,
        downlink_bits=bits,
        curves=RateCurves(rates, rates),
        most=np.full(devices, cap),
        weights=np.ones(devices),
    )


def _by(solve: Solver, problem: BandwidthProblem) -> Answer:
    found = solve(problem)
    return Answer(found.shares, found.steps, found.status is SolverStatus.OPTIMAL)


def _slsqp(problem: BandwidthProblem) -> Answer:
    """Over shares in units of the even one, and the deadline in units of that of even shares."""
    devices = problem.devices
    unit_s = problem.deadline_s(np.full(devices, 1 / devices))

    def spare(x: np.ndarray) -> np.ndarray:
        return np.asarray(x[-1] - problem.delays_s(x[:-1] / devices) / unit_s)

    def spare_slope(x: np.ndarray) -> np.ndarray:
        slope = problem.transfers(x[:-1] / devices)[1] / (devices * unit_s)
        return np.column_stack([np.diag(-slope), np.ones(devices)])

    last = np.append(np.zeros(devices), 1.0)
    total = {"type": "eq", "fun": lambda x: x[:-1].sum() - devices, "jac": lambda x: 1.0 - last}
    with warnings.catch_warnings():
        # it says so when it clips a step to the bounds
        warnings.simplefilter("ignore", RuntimeWarning)
        found = minimize(
            lambda x: x[-1],
            np.ones(devices + 1),
            jac=lambda x: last,
            method="SLSQP",
            bounds=[(1e-6, cap * devices) for cap in problem.most] + [(0, None)],
            constraints=[{"type": "ineq", "fun": spare, "jac": spare_slope}, total],
            options={"ftol": 1e-13, "maxiter": 300},
        )
    # near the optimum it may say that it found no way down: what it gives is judged instead
    return Answer(found.x[:-1] / devices, int(found.nit), bool(np.isfinite(found.x).all()))


def _clarabel(problem: BandwidthProblem) -> Answer:
    """The second-order cone form, in the same units as for SLSQP."""
    import cvxpy

    devices = problem.devices
    unit_s = problem.deadline_s(np.full(devices, 1 / devices))
    per_share = problem.at_cap_s * problem.most * devices / unit_s
    shares, deadline = cvxpy.Variable(devices), cvxpy.Variable()
    constraints = [
        problem.fixed_s / unit_s + cvxpy.multiply(per_share, cvxpy.inv_pos(shares)) <= deadline,
        cvxpy.sum(shares) <= devices,
        shares <= problem.most * devices,
    ]
    model = cvxpy.Problem(cvxpy.Minimize(deadline), constraints)
    model.solve(solver=cvxpy.CLARABEL)
    found = None if shares.value is None else shares.value / devices
    return Answer(found, model.solver_stats.num_iters, model.status == cvxpy.OPTIMAL)


CONTENDERS = (
    Contender("exact", partial(_by, solve_bandwidth), 10_000),
    Contender("exact, constant power", partial(_by, solve_bandwidth), 10_000, CONSTANT_POWER),
    Contender("Algorithm 3 as published", partial(_by, PUBLISHED.solve), 10_000),
    Contender("Algorithm 3, trust region", partial(_by, TRUST_REGION.solve), 10_000),
    Contender("SLSQP (scipy)", _slsqp, 100),
    Contender("Clarabel (cvxpy)", _clarabel, 10_000),
)
SIZES = ((8, 40), (20, 40), (100, 20), (1000, 3), (10_000, 1))


def _row(contender: Contender, devices: int, instances: int) -> Row:
    # what a first call imports and builds is not the solver's
    contender.solve(_instance(np.random.default_rng(0), CLASSES[1][1], law=contender.law))
    answers, seconds, gaps = [], [], []
    for number in range(instances):
        problem = _instance(np.random.default_rng([0, number]), devices, law=contender.law)
        started = time.process_time()
        answers.append(contender.solve(problem))
        seconds.append(time.process_time() - started)
        gaps.append(_distance(problem, answers[-1]))
    solved = [gap for gap in gaps if gap is not None and gap <= FAILED_GAP]
    return Row(
        contender.name,
        devices,
        instances,
        steps=median(answer.steps for answer in answers),
        ms=1e3 * median(seconds),
        gap=max(solved) if solved else None,
        failed=instances - len(solved),
    )


def _distance(problem: BandwidthProblem, answer: Answer) -> float | None:
    """Of its deadline to the exact one's lower bound, relative; none where it gave up."""
    if not answer.ended or answer.shares is None:
        return None
    # others meet their constraints nearly: what they give is made to fit
    shares = np.minimum(answer.shares, problem.most)
    deadline_s = problem.deadline_s(shares / max(1.0, float(shares.sum())))
    return (deadline_s - solve_bandwidth(problem).lower_bound_s) / deadline_s


def _campaign(count: int, most_devices: int) -> list[Campaign]:
    print(f"\n{'':34}{'exact':>16}{'trust region':>20}{'published failed':>21}")
    print(f"{'devices':>12}{'caps':>6}{'instances':>11}{'failed':>11}{'gap':>10}", end="")
    print(f"{'failed':>10}{'distance':>10}{'even':>12}{'random':>9}")
    tries: dict[tuple[int, bool], list[Try]] = {}
    for number in range(count):
        tried = _try(np.random.default_rng([1, number]), most_devices)
        tries.setdefault((tried.size_class, tried.caps), []).append(tried)
    rows = [_sum(*key, tries[key]) for key in sorted(tries)]
    for row in rows:
        _print_campaign(row)
    return rows


@dataclass(frozen=True)
class Try:
    """One random instance, by all."""

    size_class: int
    caps: bool
    exact_ended: bool
    exact_gap: float
    region_ended: bool
    region_distance: float
    published_even_failed: bool
    published_random_failed: bool


def _try(rng: np.random.Generator, most_devices: int) -> Try:
    """Sizes even in the logarithm, half with caps of 1.2 to 4 even shares, either rate law."""
    devices = min(most_devices, int(np.exp(rng.uniform(0, np.log(most_devices + 1)))))
    caps, law = bool(rng.integers(2)), (CONSTANT_SNR, CONSTANT_POWER)[rng.integers(2)]
    cap = min(1.0, rng.uniform(1.2, 4.0) / devices) if caps else 1.0
    problem = _instance(rng, devices, rng.uniform(0, SPREAD_DB), cap, law)
    exact, region = solve_bandwidth(problem), TRUST_REGION.solve(problem)
    start = np.minimum(rng.dirichlet(np.ones(devices)), problem.most)
    even, random = PUBLISHED.solve(problem), PUBLISHED.solve(problem, start)

    def distance(deadline_s: float) -> float:
        return abs(deadline_s - exact.deadline_s) / exact.deadline_s

    return Try(
        next(i for i, (_, most) in enumerate(CLASSES) if devices <= most),
        caps,
        exact.status is SolverStatus.OPTIMAL,
        abs(exact.gap),
        region.status is SolverStatus.OPTIMAL,
        distance(region.deadline_s),
        even.status is not SolverStatus.OPTIMAL or distance(even.deadline_s) > FAILED_GAP,
        random.status is not SolverStatus.OPTIMAL or distance(random.deadline_s) > FAILED_GAP,
    )


def _sum(size_class: int, caps: bool, tries: Sequence[Try]) -> Campaign:
    return Campaign(
        *CLASSES[size_class],
        caps,
        len(tries),
        exact_failed=sum(not t.exact_ended for t in tries),
        exact_gap=max(t.exact_gap for t in tries),
        region_failed=sum(not t.region_ended or t.region_distance > FAILED_GAP for t in tries),
        region_distance=max(t.region_distance for t in tries),
        published_even_failed=sum(t.published_even_failed for t in tries),
        published_random_failed=sum(t.published_random_failed for t in tries),
    )


def _print_row(row: Row) -> None:
    gap = f"{row.gap:9.0e}" if row.gap is not None else f"{'':9}"
    print(
        f"{row.name:26}{row.devices:9}{row.instances:6}{row.steps:7.0f}{row.ms:10.2f}{gap}"
        f"{row.failed / row.instances:8.0%}",
        flush=True,
    )


def _print_campaign(row: Campaign) -> None:
    print(
        f"{row.least_devices:>6}-{row.most_devices:<5}{'on' if row.caps else 'off':>6}"
        f"{row.instances:11}{row.exact_failed:11}{row.exact_gap:10.0e}{row.region_failed:10}"
        f"{row.region_distance:10.0e}{row.published_even_failed / row.instances:12.1%}"
        f"{row.published_random_failed / row.instances:9.1%}",
        flush=True,
    )


def _timeline(quick: bool, path: Path | None) -> int:
    """All cases, and some of them beside SimPy."""
    import simpy

    devices, local_steps = (1000, 20) if quick else (10_000, 100)
    small = (100, 10) if quick else (500, 20)
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
    if path:
        versions = {"simpy": simpy.__version__}
        _write(path, versions, {"timeline": timed, "simpy": beside})
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
    import simpy

    world = simpy.Environment()
    stations = {Place.SERVER: simpy.Resource(world, rules.server_workers)}
    for place in (Place.UPLINK, Place.DOWNLINK):
        if rules.whole_bandwidth(place):
            stations[place] = simpy.Resource(world, 1)

    def played(device: DeviceWork) -> Iterator[simpy.Event]:
        def seconds(step: Step, repeats: int) -> list[float]:
            return device.seconds(step, repeats, rules.whole_bandwidth(step.place)).tolist()

        local = [seconds(step, device.local_steps) for step in SFT.local]
        yield world.timeout(seconds(SFT.opening[0], 1)[0])
        for number in range(device.local_steps):
            for step, column in zip(SFT.local, local, strict=True):
                yield from visit(stations.get(step.place), column[number])
        last = SFT.closing[0]
        yield from visit(stations.get(last.place), seconds(last, 1)[0])

    def visit(station: simpy.Resource | None, seconds: float) -> Iterator[simpy.Event]:
        if station is None:
            yield world.timeout(seconds)
            return
        with station.request() as turn:
            yield turn
            yield world.timeout(seconds)

    for device in work:
        world.process(played(device))
    world.run()
    return float(world.now)


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
