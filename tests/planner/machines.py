"""A machine's profile for tests: no machine was measured for it."""

from cutlayer.planner.profile import MachineProfile, ReachedRate
from cutlayer.spec import Base
from cutlayer.units import GIB


def machine(name: str = "nano", power_w: float | None = 5.0) -> MachineProfile:
    """4 GFLOP/s in vision blocks, 2 in decoders; 2 GiB free; 5 W computing, 1 W waiting."""
    shape = {"width": 384, "tokens": 17, "samples": 16}
    return MachineProfile(
        name=name,
        command="cutlayer bench-device",
        date="2026-01-01T00:00:00+00:00",
        device="cpu",
        processor="made up",
        torch="2.9",
        threads=4,
        quick=False,
        rates=tuple(
            ReachedRate(
                family=family,
                base=Base.FLOAT32,
                forward_flops_per_s=rate,
                step_flops_per_s=rate,
                block_s=0.002,
                **shape,
            )
            for family, rate in (("vision", 4e9), ("decoder", 2e9))
        ),
        weight_bytes_per_s=1e10,
        memory_total_bytes=4 * GIB,
        memory_free_bytes=2 * GIB,
        power_w=power_w,
        idle_power_w=None if power_w is None else 1.0,
        power_source="made up",
    )
