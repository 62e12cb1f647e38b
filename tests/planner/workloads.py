"""Workloads for the tests of what is planned on them: small vision transformers, few devices."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cutlayer.channel.fading import SnrChannel
from cutlayer.channel.rates import ConstantPower, ConstantSnr
from cutlayer.planner.configuration import CodecChoices
from cutlayer.planner.decision import CodecChoice, Decision, PlanLimits, PlannedServer, Workload
from cutlayer.rounds.memory import PHYSICAL_ACCOUNTING
from cutlayer.rounds.schemes import SFT, Scheme
from cutlayer.rounds.vit import VitDimensions, vit_spec
from cutlayer.rounds.work import SharingRules
from cutlayer.spec import Device, MiniBatch, MiniBatchPolicy
from cutlayer.units import MIB

SMALL = VitDimensions("small", blocks=6, width=64, heads=4, image_side=64, classes=10, rank=4)
BEST = CodecChoice("best", {"target_bits_up": 0.7, "target_bits_down": 0.4}, 0.022, 0.013, 0.005)
COARSE = CodecChoice("best", {"target_bits_up": 0.3, "target_bits_down": 0.2}, 0.01, 0.006, 0.05)
PAPER = CodecChoice("paper", {"keep_ratio": 0.2, "levels": 7}, 0.05, 0.05, 0.015)
CODECS = CodecChoices((BEST,), (COARSE,), PAPER)


def workload(
    flops_per_s: Sequence[float] = (1e9, 2e9, 4e9),
    snr_db: Sequence[float] = (17.0, 7.0, 12.0),
    memory_mib: Sequence[float | None] | None = None,
    *,
    server_flops_per_s: float = 2e10,
    bandwidth_hz: float = 2e5,
    rules: SharingRules | None = None,
    constant_power: bool = False,
    local_steps: int = 4,
    dimensions: VitDimensions = SMALL,
    server_block_s: float = 0.0,
) -> Workload:
    """A workload of one device for each rate."""
    limits = [None] * len(flops_per_s) if memory_mib is None else memory_mib
    devices = tuple(
        Device(f"device-{n}", rate, snr, snr, None if mib is None else int(mib * MIB))
        for n, (rate, snr, mib) in enumerate(zip(flops_per_s, snr_db, limits, strict=True))
    )
    ratios = np.array(snr_db, dtype=np.float64)
    law = ConstantPower() if constant_power else ConstantSnr()
    return Workload(
        model=vit_spec(dimensions),
        devices=devices,
        batch=MiniBatch(8, dimensions.tokens),
        local_steps=(local_steps,) * len(devices),
        rounds=5,
        server_flops_per_s=server_flops_per_s,
        channel=SnrChannel(bandwidth_hz, ratios, ratios, uplink_law=law),
        rules=rules or SharingRules(),
        accounting=PHYSICAL_ACCOUNTING,
        optimizer_slots=2,
        server=PlannedServer(block_s=server_block_s),
    )


def limits(own: Workload, **changes: object) -> PlanLimits:
    """No limit but what is given."""
    return replace(PlanLimits((1.0,) * len(own.devices)), **changes)  # type: ignore[arg-type]


def decision(
    own: Workload,
    cut: int = 2,
    *,
    scheme: Scheme = SFT,
    policy: MiniBatchPolicy | None = None,
    shares: Sequence[float] | None = None,
    codec: CodecChoice = BEST,
) -> Decision:
    """One cut for all, on even shares unless others are given."""
    count = len(own.devices)
    return Decision(
        scheme=scheme,
        cuts=(cut,) * count,
        codec=codec,
        policy=policy or MiniBatchPolicy(),
        rules=own.rules,
        shares=tuple(shares or (1.0 / count,) * count),
    )
