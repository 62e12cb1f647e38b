"""From a cost model to a device's work: what each step of a round takes, without training.

Knows the accountings and the schemes; the analytic figures and the planner ask here what the
trainer counts.
"""

import numpy as np
from jaxtyping import Float64

from cutlayer.cost.accounting import Accounting
from cutlayer.cost.flops import StepFlops, recomputed_flops
from cutlayer.cost.traffic import Traffic
from cutlayer.schemes.scheme import DeviceOrder, Phase, Scheme
from cutlayer.spec import Holding, MiniBatch, ModelSpec, Trained
from cutlayer.timeline.work import DeviceRates, DeviceWork


def round_work(
    scheme: Scheme,
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    local_steps: int,
    accounting: Accounting,
    rates: DeviceRates,
    *,
    compression_up: float = 1.0,
    compression_down: float = 1.0,
    first_round: bool = True,
    micro_batches: int = 1,
    in_flight: int | None = None,
    holding: Holding = Holding.KEEP,
) -> DeviceWork:
    """One device's work in a round of `local_steps` mini-batches like `batch`.

    `compression_up`, `compression_down`: bytes sent over bytes uncompressed (the paper's beta), of
    activations and gradients; a scheme without compression sends them all. Micro-batches differ by
    one sample at most, and a mini-batch's amounts are theirs by samples. What `holding` makes a
    device compute twice is part of its backward. The broadcast is the
    frozen part in the first round and the merged adapters in each, unless each device is handed
    those of the one before it; the paper's Psi holds both, and with all weights trained they are
    the same. Where devices hold the whole model `cut` only divides it between two phases.
    Labels, frames and checksums are left out.
    Raises ConfigError for a cut that is not.
    """
    held = cut if scheme.splits else model.blocks
    flops = accounting.flops(model, cut, batch, scheme.trained)
    traffic = accounting.traffic(model, held, batch, scheme.trained)
    if scheme.compressed:
        up, down = compression_up, compression_down
    else:
        up, down = 1.0, 1.0
    edge = _edge_bytes(scheme, traffic, first_round)
    shares = _micro_batch_shares(batch.samples, micro_batches)
    amounts = {
        step.phase: np.array([edge[step.phase]]) for step in (*scheme.opening, *scheme.closing)
    }
    local = _local_amounts(flops, traffic, up, down)
    local[Phase.DEVICE_BACKWARD] += recomputed_flops(model, batch, flops, holding)
    for step in scheme.local:
        amounts[step.phase] = np.tile(local[step.phase] * shares, local_steps)
    return DeviceWork(amounts, rates, local_steps, micro_batches, in_flight)


def _edge_bytes(scheme: Scheme, traffic: Traffic, first_round: bool) -> dict[Phase, float]:
    """Bytes that open and close a round."""
    adapter = float(traffic.adapter_bytes)
    frozen = float(traffic.model_bytes) if scheme.trained is Trained.ADAPTERS else 0.0
    merged = adapter if scheme.devices is DeviceOrder.PARALLEL else 0.0
    if first_round:
        distributed = frozen if frozen and traffic.adapters_in_model else frozen + merged
    else:
        distributed = merged
    return {
        Phase.MODEL_DISTRIBUTION: distributed,
        Phase.ADAPTER_DOWN: adapter,
        Phase.ADAPTER_UP: adapter,
    }


def _local_amounts(
    flops: StepFlops, traffic: Traffic, up: float, down: float
) -> dict[Phase, float]:
    """FLOPs and bytes of one mini-batch."""
    return {
        Phase.DEVICE_FORWARD: flops.device_forward,
        Phase.ACTIVATION_UP: up * traffic.activation_bytes,
        Phase.SERVER_COMPUTE: flops.server,
        Phase.UPPER_COMPUTE: flops.server,
        Phase.GRADIENT_DOWN: down * traffic.gradient_bytes,
        Phase.DEVICE_BACKWARD: flops.device_backward,
    }


def _micro_batch_shares(samples: int, parts: int) -> Float64[np.ndarray, " part"]:
    """The part of a mini-batch's samples in each of its micro-batches, the larger ones first."""
    each, more = divmod(samples, parts)
    return (each + (np.arange(parts) < more)) / samples
