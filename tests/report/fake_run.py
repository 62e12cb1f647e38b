"""Run directories of believable numbers: a small simulation of a first-come first-served server."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PHASES = (
    "model_distribution",
    "device_forward",
    "activation_up",
    "server_queue",
    "server_compute",
    "gradient_down",
    "device_backward",
    "adapter_up",
)


@dataclass(frozen=True)
class FakeRun:
    """What a made-up run looks like: how many of what, and which task."""

    devices: int = 8
    rounds: int = 6
    local_steps: int = 3
    class_names: tuple[str, ...] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    language_modelling: bool = False
    memory_limit_bytes: int | None = 256 * 1024**2
    keep_ratio: float = 0.1
    seed: int = 3
    evaluated_every: int = 1


def write_fake_run(directory: Path, fake: FakeRun) -> Path:
    """Write the run's files, as the trainer would; sums and totals agree."""
    rng = np.random.default_rng(fake.seed)
    directory.mkdir(parents=True)
    config = f"# as read\ncut: 4\ncodec:\n  keep_ratio: {fake.keep_ratio}\nseed: {fake.seed}\n"
    (directory / "config.yaml").write_text(config, encoding="utf-8")
    counts = partition_of(fake, rng)
    partition = {"class_names": list(fake.class_names), "counts": counts}
    write_json(directory / "partition.json", partition)
    speed = rng.uniform(0.6, 1.6, fake.devices)
    rounds, trace = [first_round(fake)], []
    for number in range(1, fake.rounds + 1):
        record, steps = one_round(fake, number, speed, rounds[-1], rng)
        if number not in (1, fake.rounds) and number % fake.evaluated_every:
            for name in ("accuracy", "perplexity", "eval_loss"):
                record.pop(name, None)
        rounds.append(record)
        trace += steps
    write_lines(directory / "rounds.jsonl", rounds)
    write_lines(directory / "trace.jsonl", trace)
    write_json(directory / "summary.json", summary_of(fake, rounds, counts, config))
    return directory


def partition_of(fake: FakeRun, rng: np.random.Generator) -> list[list[int]]:
    """A Dirichlet partition, as uneven as a real one."""
    shares = rng.dirichlet(np.full(fake.devices, 0.7), size=len(fake.class_names))
    return [[int(3000 * share) for share in row] for row in shares.T]


def score_of(fake: FakeRun, number: int) -> dict[str, float]:
    """Learning that levels off."""
    progress = 1 - np.exp(-number / 3)
    if fake.language_modelling:
        return {"perplexity": float(61.8 - 34.2 * progress)}
    return {"accuracy": float(round(0.104 + 0.73 * progress, 4))}


def first_round(fake: FakeRun) -> dict[str, object]:
    """The evaluation before training."""
    return {
        "round": 0,
        **score_of(fake, 0),
        "eval_loss": 2.341,
        "virtual_time_s": 0.0,
        "wall_s": 3.1,
    }


def one_round(
    fake: FakeRun,
    number: int,
    speed: np.ndarray,
    before: dict[str, object],
    rng: np.random.Generator,
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """A round whose server works first come, first served."""
    payload = {
        "weights": 0,
        "adapter_down": 1_180_000,
        "activation": int(2_000_000 * fake.keep_ratio * rng.uniform(0.95, 1.05)),
        "labels": 64,
        "gradient": int(2_000_000 * fake.keep_ratio * rng.uniform(0.95, 1.05)),
        "adapter_up": 1_180_000,
    }
    origin = float(before["virtual_time_s"])
    steps = simulate(fake, number, origin, speed, payload)
    by_device = []
    for device in range(fake.devices):
        mine = [step for step in steps if step["device"] == device]
        by_device.append(
            {
                phase: sum(s["end_s"] - s["start_s"] for s in mine if s["phase"] == phase)
                for phase in PHASES
            }
        )
    delays = [sum(phases.values()) for phases in by_device]
    slowest = int(np.argmax(delays))
    totals = {
        name: size * fake.devices * (fake.local_steps if name in per_step() else 1)
        for name, size in payload.items()
    }
    up = totals["activation"] + totals["labels"] + totals["adapter_up"]
    down = totals["weights"] + totals["adapter_down"] + totals["gradient"]
    raw = 2_000_000 * fake.devices * fake.local_steps
    record = {
        "round": number,
        **score_of(fake, number),
        "eval_loss": 0.46 + 1.88 * float(np.exp(-number / 3)),
        "train_loss": 0.52 + 1.7 * float(np.exp(-number / 3.3)) + float(rng.normal(0, 0.02)),
        "shares": [1 / fake.devices] * fake.devices,
        "delay_s": delays[slowest],
        "delay_by_phase_s": by_device[slowest],
        "slowest_device": slowest,
        "device_delay_s": delays,
        "device_delay_by_phase_s": by_device,
        "virtual_time_s": origin + delays[slowest],
        "uplink_bytes": up,
        "downlink_bytes": down,
        "uncompressed_uplink_bytes": up - totals["activation"] + raw,
        "uncompressed_downlink_bytes": down - totals["gradient"] + raw,
        "bytes_by_payload": totals,
        "wall_s": 14.2 + float(rng.normal(0, 0.3)),
    }
    return record, steps


def per_step() -> tuple[str, ...]:
    """The payloads that are sent at every local step."""
    return ("activation", "labels", "gradient")


def simulate(
    fake: FakeRun,
    number: int,
    origin: float,
    speed: np.ndarray,
    payload: dict[str, int],
) -> list[dict[str, object]]:
    """The trace of one round, from a FIFO server and fixed rates."""
    steps: list[dict[str, object]] = []
    clock = [origin] * fake.devices
    server_free = origin

    def spend(device: int, step: int, phase: str, end: float, size: int = 0) -> None:
        steps.append(
            {
                "round": number,
                "device": device,
                "local_step": step,
                "micro_batch": 0,
                "phase": phase,
                "start_s": clock[device],
                "end_s": end,
                "bytes": size,
            }
        )
        clock[device] = end

    rate = 9e5
    for device in range(fake.devices):
        size = payload["adapter_down"]
        spend(device, 0, "model_distribution", clock[device] + size / rate / 4, size)
    for step in range(fake.local_steps):
        for device in range(fake.devices):
            size = payload["activation"] + payload["labels"]
            spend(device, step, "device_forward", clock[device] + 0.11 * speed[device])
            spend(device, step, "activation_up", clock[device] + size / rate, size)
        for device in sorted(range(fake.devices), key=lambda n: clock[n]):
            start = max(server_free, clock[device])
            server_free = start + 0.045
            spend(device, step, "server_queue", start)
            spend(device, step, "server_compute", server_free)
            size = payload["gradient"]
            spend(device, step, "gradient_down", clock[device] + size / rate / 4, size)
            spend(device, step, "device_backward", clock[device] + 0.22 * speed[device])
    for device in range(fake.devices):
        size = payload["adapter_up"]
        spend(device, fake.local_steps - 1, "adapter_up", clock[device] + size / rate, size)
    return steps


def summary_of(
    fake: FakeRun,
    rounds: list[dict[str, object]],
    counts: list[list[int]],
    config: str,
) -> dict[str, object]:
    """Totals of the rounds, and a device's memory."""
    done = rounds[1:]
    memory = {
        "weights": 30_400_000,
        "adapters": 1_180_000,
        "optimizer": 2_360_000,
        "gradients": 1_180_000,
        "activations": 71_000_000,
        "input": 1_200_000,
    }
    measure = "perplexity" if fake.language_modelling else "accuracy"
    return {
        "clock": "virtual",
        "scheme": "sft",
        "model": "smollm2-135m" if fake.language_modelling else "dinov2-small",
        "model_source": "package",
        "data": "wordnet" if fake.language_modelling else "fashion-mnist",
        "data_source": "cache",
        "task": "causal-lm" if fake.language_modelling else "image-classification",
        "cut": 4,
        "blocks": 12,
        "skipped_samples": 0,
        "left_out": [],
        "server_peak_bytes": 90_000_000,
        "server_memory_bytes": {"weights": 90_000_000},
        "rounds": len(done),
        f"{measure}_first": rounds[0][measure],
        f"{measure}_final": rounds[-1][measure],
        **{
            key: sum(record[key] for record in done)
            for key in (
                "uplink_bytes",
                "downlink_bytes",
                "uncompressed_uplink_bytes",
                "uncompressed_downlink_bytes",
                "delay_s",
            )
        },
        "delay_by_phase_s": {
            phase: sum(record["delay_by_phase_s"][phase] for record in done) for phase in PHASES
        },
        "device_peak_bytes": sum(memory.values()),
        "device_memory_bytes": memory,
        "device_memory_limit_bytes": fake.memory_limit_bytes,
        "model_bytes": 88_200_000,
        "unsplit_peak_bytes": 402_000_000,
        "devices": fake.devices,
        "samples_per_device": [sum(row) for row in counts],
        "wall_s": 14.2 * len(done) + 3.1,
        "seed": fake.seed,
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    }


def write_json(path: Path, value: object) -> None:
    """One JSON file."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
