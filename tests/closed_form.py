"""A device's round in seconds by the closed form, without any waiting at the server.

The timeline gives the same where no queue forms, and the planner's forecast does.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RoundSeconds:
    """One device's seconds: once a round, and once each local step."""

    model_distribution_s: float
    device_forward_s: float
    activation_up_s: float
    server_compute_s: float
    gradient_down_s: float
    device_backward_s: float
    adapter_up_s: float


def round_delay_s(seconds: RoundSeconds, local_steps: int) -> float:
    """`MD + K (DC + IAT + SC + GT + DU) + LT` [s].

    Source: SFT eq. (26), with the K local steps that it leaves out.
    """
    step_s = (
        seconds.device_forward_s
        + seconds.activation_up_s
        + seconds.server_compute_s
        + seconds.gradient_down_s
        + seconds.device_backward_s
    )
    return seconds.model_distribution_s + local_steps * step_s + seconds.adapter_up_s
