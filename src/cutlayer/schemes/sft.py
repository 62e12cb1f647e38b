"""SFT, the scheme of the paper: devices in parallel, one shared frozen server part.

The server keeps an adapter for each device and works through mini-batches in the order in which
their activations arrive. Source: SFT Algorithm 1.
"""

from cutlayer.schemes.scheme import BROADCAST_MODEL, SPLIT_STEP, UPLOAD_ADAPTER, Scheme

SFT = Scheme(
    name="sft",
    title="SFT",
    opening=(BROADCAST_MODEL,),
    local=SPLIT_STEP,
    closing=(UPLOAD_ADAPTER,),
)
