"""What a machine draws, where it has a sensor: RAPL's counters, a Jetson's INA3221, nvidia-smi.

Knows the files and the command that tell; nothing of what is computed meanwhile.
"""

import statistics
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

_SAMPLE_S = 0.1
_SMI = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits")


class PowerMeter(ABC):
    """A sensor. `source`: what it is, and what it sees."""

    source: str

    @abstractmethod
    def watching(self) -> "Watch":
        """From now on; the watch tells the mean power until it is asked [W]."""


class Watch(ABC):
    """A span of time that has begun."""

    @abstractmethod
    def power_w(self) -> float | None:
        """The mean power since it began [W]; None: the sensor told nothing."""


@final
@dataclass(frozen=True)
class RaplMeter(PowerMeter):
    """The counters of a processor's packages [microjoule], which wrap."""

    packages: tuple[Path, ...]
    clock: Callable[[], float] = time.monotonic
    source: str = "RAPL: the processor's packages, without the rest of the machine"

    def watching(self) -> Watch:
        """By the counters now and later."""
        return _RaplWatch(self, self.clock(), tuple(map(_energy_uj, self.packages)))


@dataclass(frozen=True)
class _RaplWatch(Watch):
    meter: RaplMeter
    began_s: float
    began_uj: tuple[int | None, ...]

    def power_w(self) -> float | None:
        joules = 0.0
        for package, began in zip(self.meter.packages, self.began_uj, strict=True):
            ended = _energy_uj(package)
            if began is None or ended is None:
                return None
            wraps = _number(package / "max_energy_range_uj") or 0
            joules += (ended - began + (wraps if ended < began else 0)) / 1e6
        return joules / max(self.meter.clock() - self.began_s, 1e-9)


@final
@dataclass(frozen=True)
class SampledMeter(PowerMeter):
    """A sensor that tells the power of a moment [W], asked ten times a second; None: not now."""

    read_w: Callable[[], float | None]
    source: str

    def watching(self) -> Watch:
        """In a thread of its own."""
        return _SampledWatch(self.read_w)


class _SampledWatch(Watch):
    def __init__(self, read_w: Callable[[], float | None]) -> None:
        self._read_w = read_w
        self._seen: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def power_w(self) -> float | None:
        self._ended.set()
        self._thread.join()
        return statistics.fmean(self._seen) if self._seen else None

    def _sample(self) -> None:
        while True:
            seen = self._read_w()
            if seen is not None:
                self._seen.append(seen)
            if self._ended.wait(_SAMPLE_S):
                return


def find_meter(
    device: str,
    gpu_id: str = "0",
    *,
    sysfs: Path = Path("/sys"),
    run: Callable[[tuple[str, ...]], str | None] | None = None,
) -> PowerMeter | str:
    """The sensor that sees a torch device (`cpu`, `cuda:0`, `mps`), or why there is none.

    A Jetson's sees the whole module, so it is asked first. `gpu_id`: which GPU that is to
    nvidia-smi, whose numbers may be others than torch's. `run` gives a command's output, None if
    it cannot be had.
    """
    whole = next(_module_meters(sysfs), None)
    if whole is not None:
        return whole
    if device.startswith("cuda"):
        words = (*_SMI, f"--id={gpu_id}")
        ask = run or _output
        if _watts(ask(words)) is None:
            return "nvidia-smi tells no power of this GPU"
        return SampledMeter(lambda: _watts(ask(words)), "nvidia-smi: the GPU's board")
    if device != "cpu":
        return f"no sensor is known for {device}"
    packages = tuple(sorted(sysfs.glob("class/powercap/intel-rapl:[0-9]*")))
    packages = tuple(one for one in packages if one.name.count(":") == 1)
    if not packages:
        return "no RAPL counters below /sys/class/powercap, and no sensor of a module"
    if any(_energy_uj(one) is None for one in packages):
        return f"{packages[0]}/energy_uj cannot be read: run as root to measure power"
    return RaplMeter(packages)


def _module_meters(sysfs: Path) -> Iterator[PowerMeter]:
    """INA3221 channels that are called VDD_IN: all that a Jetson module takes in."""
    for label in sorted(sysfs.glob("bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label")):
        if _text(label) == "VDD_IN":
            number = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = (label.parent / f"{what}{number}_input" for what in ("in", "curr"))
            if _power_w(volts, amperes) is not None:
                yield SampledMeter(
                    lambda volts=volts, amperes=amperes: _power_w(volts, amperes),  # type: ignore[misc]
                    "INA3221 VDD_IN: the whole module",
                )


def _power_w(millivolts: Path, milliamperes: Path) -> float | None:
    voltage, current = _number(millivolts), _number(milliamperes)
    return None if voltage is None or current is None else voltage * current / 1e6


def _watts(text: str | None) -> float | None:
    """What nvidia-smi says of one GPU; it says [N/A] where it cannot tell."""
    try:
        return None if text is None else float(text.split()[0])
    except (ValueError, IndexError):
        return None


def _energy_uj(package: Path) -> int | None:
    return _number(package / "energy_uj")


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _output(words: tuple[str, ...]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
