"""Every scheme by its name."""

from cutlayer.schemes.fl_full import FL_FULL
from cutlayer.schemes.fl_lora import FL_LORA
from cutlayer.schemes.scheme import Scheme
from cutlayer.schemes.sft import SFT
from cutlayer.schemes.sft_overlap import SFT_OVERLAP
from cutlayer.schemes.sft_uncompressed import SFT_UNCOMPRESSED
from cutlayer.schemes.sl import SL
from cutlayer.schemes.splitlora import SPLITLORA
from cutlayer.schemes.splitlora_paper import SPLITLORA_PAPER

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        SFT,
        SFT_UNCOMPRESSED,
        SFT_OVERLAP,
        SPLITLORA_PAPER,
        SPLITLORA,
        SL,
        FL_LORA,
        FL_FULL,
    )
}
