"""Split learning: one device at a time with the whole band, handing its adapters to the next.

The hand-over goes through the server, up and down. Source: SFT Section VIII-A.
"""

from cutlayer.schemes.scheme import (
    BROADCAST_MODEL,
    SPLIT_STEP,
    UPLOAD_ADAPTER,
    DeviceOrder,
    Phase,
    Place,
    Scheme,
    Step,
)

SL = Scheme(
    name="sl",
    title="SL",
    opening=(BROADCAST_MODEL, Step(Phase.ADAPTER_DOWN, Place.DOWNLINK)),
    local=SPLIT_STEP,
    closing=(UPLOAD_ADAPTER,),
    devices=DeviceOrder.IN_TURN,
    shared_server=True,
    compressed=False,
)
