"""SplitLoRA as the SFT paper describes it: a server-side model for each device, worked on together.

The server waits for all devices, trains their N models at once on its one processor, and devices
wait for each other. Source: SFT Section VIII-A.
"""

from cutlayer.schemes.scheme import (
    BROADCAST_MODEL,
    SPLIT_STEP,
    UPLOAD_ADAPTER,
    Scheme,
    ServerOrder,
)

SPLITLORA_PAPER = Scheme(
    name="splitlora-paper",
    title="SplitLoRA (as the paper has it)",
    opening=(BROADCAST_MODEL,),
    local=SPLIT_STEP,
    closing=(UPLOAD_ADAPTER,),
    server=ServerOrder.TOGETHER,
    compressed=False,
)
