"""SFT with micro-batches that overlap: a device goes on computing while its link and the server
work on the micro-batches before.

The adapters step once a mini-batch, so without compression training is that of SFT. Source: ours.
"""

from cutlayer.schemes.scheme import BROADCAST_MODEL, SPLIT_STEP, UPLOAD_ADAPTER, Scheme

SFT_OVERLAP = Scheme(
    name="sft-overlap",
    title="SFT with overlap",
    opening=(BROADCAST_MODEL,),
    local=SPLIT_STEP,
    closing=(UPLOAD_ADAPTER,),
    pipelined=True,
)
