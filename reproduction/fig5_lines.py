"""The lines of Fig. 5: which scheme through which codec, and how its samples are dealt."""

from dataclasses import dataclass
from typing import Any

# the paper's point: 80 % sparsity and 3 bits, which are 7 intervals
KEEP_RATIO, LEVELS = 0.2, 7
# LoRA adapters and the head; full weights at this rate forget what they were pretrained to
LEARNING_RATE, FULL_LEARNING_RATE = 1e-3, 1e-4


@dataclass(frozen=True)
class Partition:
    """How samples are dealt over devices."""

    name: str
    title: str
    settings: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Line:
    """A training: `name` in the CSV, `title` in the legend. `benchmark`: one of the paper's."""

    name: str
    title: str
    scheme: str
    codec: str
    benchmark: bool
    learning_rate: float = LEARNING_RATE

    @property
    def settings(self) -> dict[str, Any]:
        """Its part of the configuration, by dotted key."""
        own: dict[str, Any] = {
            "scheme.name": self.scheme,
            "optimizer.learning_rate": self.learning_rate,
        }
        if self.codec != "none":  # schemes that compress nothing read no codec
            own["codec.name"] = self.codec
        if self.codec == "paper":
            own |= {"codec.keep_ratio": KEEP_RATIO, "codec.levels": LEVELS}
        return own


IID = Partition("iid", "IID", (("partition.name", "iid"),))
DIRICHLET = Partition(
    "dirichlet",
    "Dirichlet 0.5",
    (("partition.name", "dirichlet"), ("partition.alpha", 0.5)),
)
PARTITIONS = (IID, DIRICHLET)

SFT_PAPER = Line("sft-paper", "SFT, paper's codec (80 %, 3 bits)", "sft", "paper", False)
SFT_BEST = Line("sft-best", "SFT, codec best", "sft", "best", False)
# without compression these end with the same adapters, bit for bit, wherever the work is done:
# they are trained once and drawn once
SAME_ADAPTERS = ("sft-uncompressed", "splitlora-paper", "fl-lora")
PLAIN = Line(
    "sft-uncompressed",
    "SFT uncompressed = SplitLoRA (as the paper has it) = FL with LoRA",
    "sft-uncompressed",
    "none",
    True,
)
SL = Line("sl", "SL (sequential)", "sl", "none", True)
SPLITLORA = Line("splitlora", "SplitLoRA (as published)", "splitlora", "none", True)
FL_FULL = Line(
    "fl-full",
    f"FL with full weights (rate {FULL_LEARNING_RATE:g})",
    "fl-full",
    "none",
    False,
    FULL_LEARNING_RATE,
)
LINES = (SFT_PAPER, SFT_BEST, PLAIN, SL, SPLITLORA, FL_FULL)
