"""SplitLoRA as its authors published it: one server-side adapter, stepped by devices in turn.

Source: SplitLoRA (arXiv 2407.00952) and its published code; its devices' adapters are averaged at
the end of the round.
"""

from cutlayer.schemes.scheme import (
    BROADCAST_MODEL,
    SPLIT_STEP,
    UPLOAD_ADAPTER,
    Scheme,
    ServerOrder,
)

SPLITLORA = Scheme(
    name="splitlora",
    title="SplitLoRA (as published)",
    opening=(BROADCAST_MODEL,),
    local=SPLIT_STEP,
    closing=(UPLOAD_ADAPTER,),
    server=ServerOrder.TURNS,
    shared_server=True,
    compressed=False,
)
