"""The words of a run record (phases, payloads, kinds of memory) with their labels and colours.

Knows no file and no drawing. Colours say who acts: teal a device computing, orange the uplink,
violet the server, blue the downlink; pale ones wait, grey ones for other devices. They differ in
lightness too, for print and colour blindness.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """How one key of a record is shown: in full, in a table heading of four letters, in colour."""

    label: str
    short: str
    colour: str


PHASES = {
    "model_distribution": Word("model distribution", "dist", "#1f5a93"),
    "adapter_down": Word("adapter down", "addn", "#4a86bd"),
    "device_queue": Word("device queue", "devq", "#cfe3df"),
    "device_forward": Word("device forward", "fwd", "#35ab9b"),
    "link_queue": Word("link queue", "lnkq", "#f3e3cb"),
    "activation_up": Word("activation up", "act", "#f0a13c"),
    "server_queue": Word("server queue", "wait", "#d9d3e6"),
    "server_compute": Word("server compute", "srv", "#7657a6"),
    "upper_compute": Word("upper compute", "upr", "#7fd0c1"),
    "gradient_down": Word("gradient down", "grad", "#8cbde4"),
    "device_backward": Word("device backward", "bwd", "#0e6b61"),
    "barrier": Word("barrier", "barr", "#c3c8cf"),
    "adapter_up": Word("adapter up", "adpt", "#b3560f"),
    "turn": Word("turn", "turn", "#e3e6ea"),
    # of a round that was measured, and not from end to end
    "unobserved": Word("not observed", "unob", "#8a929c"),
}

# phases in which a device does nothing
WAITS = ("device_queue", "link_queue", "server_queue", "barrier", "turn")

PAYLOADS = {
    "activation": Word("activation", "act", "#f0a13c"),
    "labels": Word("labels", "lab", "#f7d9a8"),
    "adapter_up": Word("adapter up", "adup", "#b3560f"),
    "gradient": Word("gradient", "grad", "#8cbde4"),
    "adapter_down": Word("adapter down", "addn", "#1f5a93"),
    "model": Word("model", "mod", "#0d2b49"),
}

MEMORY_KINDS = {
    "weights": Word("weights", "wgt", "#3d4f66"),
    "adapters": Word("adapters", "adpt", "#b3560f"),
    "optimizer": Word("optimizer", "opt", "#f0a13c"),
    "gradients": Word("gradients", "grad", "#8cbde4"),
    "activations": Word("activations", "act", "#35ab9b"),
    "input": Word("input", "in", "#c9cfd8"),
}

# what was measured on the test split, and while training
SCORE_COLOUR = "#1f5a93"
TRAIN_COLOUR = "#f0a13c"

# a device's own share of something, and what it is compared with
DEVICE_COLOUR = "#35ab9b"
OTHER_COLOUR = "#9aa3ae"
# what a record calls its clock, and what a person reads
CLOCKS = {"virtual": "simulated", "measured": "measured"}
# these would turn round the text that follows them
_DIRECTION_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def phases_in(seconds: Iterable[Mapping[str, float]]) -> dict[str, Word]:
    """The phases that took any time, in order: a scheme has some of them only."""
    given = list(seconds)
    return {
        phase: own for phase, own in PHASES.items() if any(one.get(phase, 0.0) > 0 for one in given)
    }


def word(vocabulary: dict[str, Word], key: str) -> Word:
    """The word of a key; one we do not know is shown as it is, in grey."""
    return vocabulary.get(key) or Word(printable(key), printable(key)[:4], OTHER_COLOUR)


def printable(text: str) -> str:
    """The text without what a terminal obeys or XML forbids: controls, surrogates, overrides.

    Each is replaced by U+FFFD; what remains still has to be escaped for HTML.
    """
    return "".join(_visible(character) for character in text)


def shortened(text: str, length: int) -> str:
    """The text made printable and cut to at most `length` characters, with an ellipsis."""
    shown = printable(text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    hidden |= character in _DIRECTION_OVERRIDES or character in "\ufffe\uffff"
    return "\ufffd" if hidden else character
