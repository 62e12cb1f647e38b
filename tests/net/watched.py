"""Runs as operators see them, made up: from no round at all to dozens, few devices and many."""

from cutlayer.net.operations.status import DeviceStatus, MemoryHeld, RunStatus, ServerProcess
from cutlayer.training.records import UNOBSERVED, FirstRound, RoundRecord, TrainedRound

HOSTILE = '<img src=x onerror="document.title=1">'
LOCAL_STEPS = 10
_MIB = 1024**2
# seconds of one device by phase in a round, and what a slow one adds
_PHASES = {
    "adapter_down": 0.9,
    "device_forward": 9.4,
    "activation_up": 8.1,
    "server_queue": 1.7,
    "server_compute": 4.2,
    "gradient_down": 3.3,
    "device_backward": 11.8,
    "barrier": 2.4,
    "adapter_up": 1.1,
}


def phases(number: int, device: int) -> dict[str, float]:
    """A device's seconds of a round: no two alike, always the same."""
    factor = 1 + 0.05 * ((3 * number + 7 * device) % 5)
    return {phase: seconds * factor for phase, seconds in _PHASES.items()}


def rounds(count: int, devices: int = 3) -> list[RoundRecord]:
    """Round 0 and `count` more. The third was resumed: its phases were not observed."""
    return [_before_training(), *(_round(number, devices) for number in range(1, count + 1))]


def _before_training() -> FirstRound:
    return FirstRound(round=0, accuracy=0.102, eval_loss=2.41, virtual_time_s=0.0, wall_s=2.0)


def _round(number: int, devices: int) -> TrainedRound:
    slowest = number % devices
    known = {UNOBSERVED: 31.0} if number == 3 else phases(number, slowest)
    sent = {"activation": 29 * _MIB, "labels": 20_480, "gradient": 6 * _MIB, "adapter_up": _MIB}
    delay_s = sum(known.values())
    return TrainedRound(
        round=number,
        accuracy=0.89 - 0.75 * 0.8**number,
        eval_loss=0.35 + 1.9 * 0.82**number,
        train_loss=0.31 + 2.2 * 0.8**number,
        delay_s=delay_s,
        delay_by_phase_s=known,
        slowest_device=slowest,
        virtual_time_s=number * delay_s,
        uplink_bytes=30 * _MIB,
        downlink_bytes=6 * _MIB,
        uncompressed_uplink_bytes=300 * _MIB,
        uncompressed_downlink_bytes=300 * _MIB,
        bytes_by_payload=sent,
        wall_s=delay_s,
    )


def device(number: int, last: int, name: str | None = None) -> DeviceStatus:
    """A device that is `number` steps into its round, and here unless its number is 1."""
    here = number != 1
    return DeviceStatus(
        name=name or f"pi-{number + 1}",
        connected=here,
        away_s=None if here else 47.0,
        local_steps=min(3 * number + 5, LOCAL_STEPS),
        adapter_sent=3 * number + 5 > LOCAL_STEPS,
        uplink_bytes=(31 + number) * last * _MIB,
        downlink_bytes=(7 + number) * last * _MIB,
        refused_adapters=number,
        delay_by_phase_s=phases(last, number) if last else None,
    )


def absent() -> DeviceStatus:
    """A number that nobody has come for yet."""
    return DeviceStatus(
        name=None,
        connected=False,
        away_s=None,
        local_steps=0,
        adapter_sent=False,
        uplink_bytes=0,
        downlink_bytes=0,
        refused_adapters=0,
        delay_by_phase_s=None,
    )


def status(
    history: list[RoundRecord],
    devices: tuple[DeviceStatus, ...],
    *,
    of: int = 20,
    finished: bool = False,
    failure: str | None = None,
) -> RunStatus:
    """A run that stands where its history ends."""
    last = history[-1] if history else None
    played = 0 if last is None else last.round
    names = (
        "activation",
        "gradient",
        "adapter_up",
        "adapter_down",
        "labels",
        "weights",
        "overhead",
    )
    sizes = (88 * _MIB, 19 * _MIB, 3 * _MIB, 3 * _MIB, 61_440, 42 * _MIB, 70_000)
    return RunStatus(
        run="dinov2-small-fashion-mnist-001",
        title="sft: dinov2-small on fashion-mnist",
        round=min(played + 1, of),
        rounds=of,
        round_s=21.0,
        deadline_s=900.0,
        quorum=2,
        missing_adapters=0,
        finished=finished,
        local_steps=LOCAL_STEPS,
        devices=devices,
        payload_bytes=dict(zip(names, sizes, strict=True)) if played else {},
        passes={"1": 20, "3": 40} if played else {},
        pass_mini_batches=2.5 if played else None,
        last=last,
        process=ServerProcess(
            uptime_s=4321.0,
            resident_bytes=612 * _MIB,
            held=MemoryHeld(now_bytes=3 * _MIB, most_bytes=90 * _MIB),
            refused_connections=3,
            failure=failure,
        ),
    )


def running(count: int = 7, devices: int = 3, of: int = 20) -> tuple[RunStatus, list[RoundRecord]]:
    """A run in its round `count` + 1, and its history."""
    history = rounds(count, devices)
    present = tuple(device(number, count) for number in range(devices))
    return status(history, present, of=of), history


def waiting(devices: int = 3) -> tuple[RunStatus, list[RoundRecord]]:
    """A run that nobody has joined."""
    return status([], tuple(absent() for _ in range(devices))), []


def ended(count: int = 5) -> tuple[RunStatus, list[RoundRecord]]:
    """A run whose last round has closed."""
    history = rounds(count)
    present = tuple(
        device(number, count).model_copy(update={"local_steps": 0, "adapter_sent": False})
        for number in range(3)
    )
    return status(history, present, of=count, finished=True), history


def besieged() -> tuple[RunStatus, list[RoundRecord]]:
    """A run one of whose devices has a name that means harm."""
    history = rounds(2)
    return status(history, (device(0, 2, HOSTILE), device(1, 2), device(2, 2))), history
