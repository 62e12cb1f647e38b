"""What a machine reaches: tiny blocks, measured for moments."""

from pathlib import Path

import pytest
import torch

from cutlayer.errors import ConfigError
from cutlayer.planner.profile import Family, MachineProfile
from cutlayer.profiling.machine import (
    SHAPES,
    BenchEffort,
    BlockShape,
    PowerMeter,
    Stopwatch,
    Watch,
    bases_here,
    bench_machine,
    host_memory_bytes,
    machine_lines,
)
from cutlayer.spec import Base

CPU = torch.device("cpu")
MOMENT = BenchEffort(each_s=0.0, power_s=0.0, read_mib=1, quick=True)


class Steady(PowerMeter):
    """Tells one after another [W]."""

    source = "made up"

    def __init__(self, *told_w: float) -> None:
        self.told = iter(told_w)

    def watching(self) -> Watch:
        """One that tells the next."""
        told = next(self.told)

        class Told(Watch):
            def power_w(self) -> float:
                return told

        return Told()


def bench(
    meter: PowerMeter | str, *families: Family, bases: tuple[Base, ...] = (Base.FLOAT32,)
) -> MachineProfile:
    """Blocks one head wide, two samples of five tokens."""
    shapes = [BlockShape(family, 64, 5, 2) for family in families]
    return bench_machine("here", "as typed", CPU, shapes, bases, MOMENT, meter=meter)


def test_blocks_of_every_family_are_measured() -> None:
    profile = bench("no sensor", "vision", "encoder", "decoder")
    assert [one.family for one in profile.rates] == ["vision", "encoder", "decoder"]
    for one in profile.rates:
        assert (one.base, one.width, one.tokens, one.samples) == (Base.FLOAT32, 64, 5, 2)
        assert one.forward_flops_per_s > 0 and one.step_flops_per_s > 0 and one.block_s > 0
    assert (profile.power_w, profile.idle_power_w) == (None, None)
    assert (profile.power_source, profile.quick, profile.device) == ("no sensor", True, "cpu")
    lines = machine_lines(profile)
    assert lines[0].startswith("vision blocks in float32, 64 wide, 2 x 5 tokens: ")
    assert lines[-1] == "power: unknown, no sensor"


def test_every_base_that_is_here_is_measured() -> None:
    here = bases_here()
    assert here[:2] == (Base.FLOAT32, Base.BFLOAT16)
    profile = bench("no sensor", "decoder", bases=here)
    assert tuple(one.base for one in profile.rates) == here


def test_power_is_measured_at_rest_and_in_steps() -> None:
    profile = bench(Steady(3.0, 8.0), "vision")
    assert (profile.idle_power_w, profile.power_w) == (3.0, 8.0)
    assert machine_lines(profile)[-1] == "power: 8.0 W, 3.0 W while it waits (made up)"


def test_counters_that_stand_still_tell_no_power() -> None:
    profile = bench(Steady(0.0, 0.0), "vision")
    assert (profile.idle_power_w, profile.power_w) == (None, None)
    assert machine_lines(profile)[-1] == "power: unknown, made up, which told no power"


def test_the_first_calls_do_not_count() -> None:
    """Calls of 9, 9, 1, 2 and 3 s."""
    times = iter((0.0, 9.0, 10.0, 19.0, 20.0, 21.0, 30.0, 32.0, 40.0, 43.0))
    watch = Stopwatch(CPU, clock=lambda: next(times))
    assert watch.median_s(lambda: None, each_s=5.0) == 2.0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((100, 5, 2), "width 100: give a multiple of 64"),
        ((64, 0, 2), "tokens 0: give at least 1"),
        ((64, 5, 0), "samples 0: give at least 1"),
    ],
)
def test_a_shape_that_cannot_be(shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BlockShape("vision", *shape)


def test_a_mini_batch_that_no_memory_holds_is_told() -> None:
    shapes = [BlockShape("vision", 64, 2, 10**14)]
    with pytest.raises(ConfigError, match=r"vision blocks in float32, 64 wide, need more memory"):
        bench_machine("here", "as typed", CPU, shapes, (Base.FLOAT32,), MOMENT, meter="none")


def test_there_is_a_usual_shape_for_each_family() -> None:
    assert {family: shape.family for family, shape in SHAPES.items()} == {
        family: family for family in ("vision", "encoder", "decoder")
    }


def test_memory_is_within_the_container(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    text = "MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:   600 kB\n"
    (tmp_path / "proc" / "meminfo").write_text(text, encoding="utf-8")
    assert host_memory_bytes(tmp_path) == (1000 * 1024, 600 * 1024)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("512000\n", encoding="utf-8")
    (group / "memory.current").write_text("500000\n", encoding="utf-8")
    assert host_memory_bytes(tmp_path) == (512000, 12000)
    (group / "memory.max").write_text("max\n", encoding="utf-8")
    assert host_memory_bytes(tmp_path) == (1000 * 1024, 600 * 1024)
    assert host_memory_bytes(tmp_path / "elsewhere") == (None, None)
