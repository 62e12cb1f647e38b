"""Rounds that are computed alone: links take no time, and how long steps take is made by hand."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

from cutlayer.lab.prediction import ComputeSeconds, RoundModel
from cutlayer.rounds.schemes import SFT, Phase
from cutlayer.rounds.work import DeviceRates, DeviceWork, SharingRules
from lab.links import link

STEPS = 10
USUAL_S = {
    Phase.DEVICE_FORWARD: 0.25,
    Phase.SERVER_COMPUTE: 0.5,
    Phase.DEVICE_BACKWARD: 0.125,
}
Factors: TypeAlias = Float64[np.ndarray, " step"]


def model(devices: int) -> RoundModel:
    """Devices with nothing to send."""
    local = {phase: np.zeros(STEPS) for phase in (Phase.ACTIVATION_UP, Phase.GRADIENT_DOWN)}
    edges = {phase: np.zeros(1) for phase in (Phase.MODEL_DISTRIBUTION, Phase.ADAPTER_UP)}
    work = DeviceWork({**local, **edges}, DeviceRates(1.0, 1.0, link(1e6, 1e6)), STEPS)
    return RoundModel(SFT, [work] * devices, SharingRules())


def seconds(factors: Factors, devices: int) -> list[ComputeSeconds]:
    """A round whose local steps take so many times as long as usual."""
    return [{phase: usual_s * factors for phase, usual_s in USUAL_S.items()}] * devices
