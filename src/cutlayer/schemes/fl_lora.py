"""Federated learning of LoRA adapters: every device holds the whole model and sends its adapters.

Source: SFT Section VIII-A ("FL-based fine-tuning").
"""

from cutlayer.schemes.scheme import BROADCAST_MODEL, UPLOAD_ADAPTER, WHOLE_STEP, Scheme

FL_LORA = Scheme(
    name="fl-lora",
    title="FL with LoRA",
    opening=(BROADCAST_MODEL,),
    local=WHOLE_STEP,
    closing=(UPLOAD_ADAPTER,),
    compressed=False,
)
