"""SFT without compression: activations and gradients go as float32. Source: SFT Section VIII-A."""

from cutlayer.schemes.scheme import BROADCAST_MODEL, SPLIT_STEP, UPLOAD_ADAPTER, Scheme

SFT_UNCOMPRESSED = Scheme(
    name="sft-uncompressed",
    title="SFT without compression",
    opening=(BROADCAST_MODEL,),
    local=SPLIT_STEP,
    closing=(UPLOAD_ADAPTER,),
    compressed=False,
)
