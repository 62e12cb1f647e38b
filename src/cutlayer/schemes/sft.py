"""SFT, the scheme of the paper: devices in parallel, one shared frozen server part.

The server keeps an adapter for each device and works through mini-batches in the order in which
their activations arrive. Source: SFT Algorithm 1.
"""

from cutlayer.schemes.scheme import Phase, Place, Scheme, Step

SFT = Scheme(
    name="sft",
    opening=(Step(Phase.MODEL_DISTRIBUTION, Place.BROADCAST),),
    local=(
        Step(Phase.DEVICE_FORWARD, Place.DEVICE),
        Step(Phase.ACTIVATION_UP, Place.UPLINK),
        Step(Phase.SERVER_COMPUTE, Place.SERVER),
        Step(Phase.GRADIENT_DOWN, Place.DOWNLINK),
        Step(Phase.DEVICE_BACKWARD, Place.DEVICE),
    ),
    closing=(Step(Phase.ADAPTER_UP, Place.UPLINK),),
)
