"""Federated learning of all weights: every device holds, trains and sends the whole model.

Source: FedAvg (arXiv 1602.05629); SFT Table III ("FL-based FT").
"""

from cutlayer.schemes.scheme import BROADCAST_MODEL, UPLOAD_ADAPTER, WHOLE_STEP, Scheme
from cutlayer.spec import Trained

FL_FULL = Scheme(
    name="fl-full",
    title="FL with full weights",
    opening=(BROADCAST_MODEL,),
    local=WHOLE_STEP,
    closing=(UPLOAD_ADAPTER,),
    compressed=False,
    trained=Trained.WEIGHTS,
)
