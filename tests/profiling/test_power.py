"""Sensors of power, of files and commands that are made up."""

from pathlib import Path

import pytest

from cutlayer.profiling.machine import PowerMeter, find_meter


def rapl(sysfs: Path, package: int, energy_uj: int | None) -> Path:
    """A package's counter, which wraps at a thousand joules; its core is a part of it."""
    folder = sysfs / f"class/powercap/intel-rapl:{package}"
    (sysfs / f"class/powercap/intel-rapl:{package}:0").mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "max_energy_range_uj").write_text("1000000000\n", encoding="utf-8")
    if energy_uj is not None:
        (folder / "energy_uj").write_text(f"{energy_uj}\n", encoding="utf-8")
    return folder


def module(sysfs: Path) -> None:
    """A Jetson's sensor: 5 V and 2 A into the module, something else on another channel."""
    folder = sysfs / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    folder.mkdir(parents=True)
    for number, (label, millivolts, milliamperes) in enumerate(
        (("VDD_CPU_GPU_CV", 900, 400), ("VDD_IN", 5000, 2000)), 1
    ):
        (folder / f"in{number}_label").write_text(f"{label}\n", encoding="utf-8")
        (folder / f"in{number}_input").write_text(f"{millivolts}\n", encoding="utf-8")
        (folder / f"curr{number}_input").write_text(f"{milliamperes}\n", encoding="utf-8")


def test_counters_of_packages_are_added_and_wrap(tmp_path: Path) -> None:
    first, second = rapl(tmp_path, 0, 1_000_000), rapl(tmp_path, 1, 999_000_000)
    found = find_meter("cpu", sysfs=tmp_path)
    assert isinstance(found, PowerMeter) and found.source.startswith("RAPL")
    seconds = iter((0.0, 2.0))
    object.__setattr__(found, "clock", lambda: next(seconds))
    watch = found.watching()
    (first / "energy_uj").write_text("7000000\n", encoding="utf-8")  # 6 J
    (second / "energy_uj").write_text("3000000\n", encoding="utf-8")  # 4 J, wrapped
    assert watch.power_w() == pytest.approx(5.0)


def test_a_counter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    rapl(tmp_path, 0, None)
    found = find_meter("cpu", sysfs=tmp_path)
    assert isinstance(found, str) and "cannot be read: run as root" in found


def test_a_module_is_seen_whole_whatever_computes(tmp_path: Path) -> None:
    module(tmp_path)
    for device in ("cpu", "cuda:0"):
        found = find_meter(device, sysfs=tmp_path, run=lambda words: None)
        assert isinstance(found, PowerMeter) and "whole module" in found.source
        assert found.watching().power_w() == pytest.approx(10.0)


def test_nvidia_smi_is_asked_for_the_gpu(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def run(words: tuple[str, ...]) -> str:
        asked.append(words)
        return "71.25\n"

    found = find_meter("cuda:3", "GPU-1f", sysfs=tmp_path, run=run)
    assert isinstance(found, PowerMeter)
    assert found.watching().power_w() == pytest.approx(71.25)
    assert {words[-1] for words in asked} == {"--id=GPU-1f"}


@pytest.mark.parametrize("answer", [None, "", "[N/A]\n"])
def test_a_gpu_that_tells_nothing(answer: str | None, tmp_path: Path) -> None:
    found = find_meter("cuda:0", sysfs=tmp_path, run=lambda words: answer)
    assert found == "nvidia-smi tells no power of this GPU"


def test_where_there_is_no_sensor(tmp_path: Path) -> None:
    assert "no RAPL counters" in str(find_meter("cpu", sysfs=tmp_path))
    assert find_meter("mps", sysfs=tmp_path) == "no sensor is known for mps"
