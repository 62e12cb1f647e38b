"""A measured rate over time, repeated for ever; its mean over any stretch of time.

Knows no file (see `trace_files`) and no device.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cutlayer.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Trace:
    """A rate that is constant on pieces: `rate_bit_per_s[i]` from `edges_s[i]` to `edges_s[i + 1]`.

    The first edge is 0, the last is the length of the trace, after which it begins again. Raises
    ConfigError for edges that do not increase, and for rates that are negative, not finite, or 0
    throughout (nothing could ever be sent).
    """

    edges_s: Float64[np.ndarray, " edge"]
    rate_bit_per_s: Float64[np.ndarray, " piece"]

    def __post_init__(self) -> None:
        edges, rates = self.edges_s, self.rate_bit_per_s
        if len(rates) == 0 or len(edges) != len(rates) + 1:
            raise ConfigError(
                f"a trace of {len(rates)} rates and {len(edges)} edges: it needs a rate for each "
                "piece, and an edge more"
            )
        if edges[0] != 0 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
            raise ConfigError("a trace's edges must start at 0 s and increase")
        if not (np.isfinite(rates).all() and (rates >= 0).all()):
            raise ConfigError("a trace's rates must be finite and at least 0")
        if not (rates > 0).any():
            raise ConfigError("a trace whose rate is always 0 lets nothing through")

    @property
    def length_s(self) -> float:
        """Seconds until it begins again."""
        return float(self.edges_s[-1])

    def mean_bit_per_s(self, start_s: float, window_s: float) -> float:
        """The mean rate over the `window_s` seconds from `start_s`; always above 0.

        A window without a positive rate is doubled until it has one: who begins to send in an
        outage waits for its end. Raises ConfigError for a negative or infinite start, and for a
        window that is not positive and finite.
        """
        if not (start_s >= 0 and math.isfinite(start_s)):
            raise ConfigError(f"a time in a trace must be finite and at least 0 s, not {start_s}")
        if not (window_s > 0 and math.isfinite(window_s)):
            raise ConfigError(f"a trace's window must be positive and finite, not {window_s} s")
        start_s = math.fmod(start_s, self.length_s)
        while (bits := self._bits(start_s, window_s)) == 0:
            window_s *= 2
        return bits / window_s

    def _bits(self, start_s: float, window_s: float) -> float:
        """What goes through in a window that starts within the trace."""
        end_s = start_s + window_s
        whole, rest_s = divmod(end_s, self.length_s)
        if whole == 0:
            return self._within(start_s, end_s)
        bits = self._within(start_s, self.length_s) + self._within(0.0, rest_s)
        # a window shorter than a trace goes through none as a whole
        return bits + ((whole - 1) * self._within(0.0, self.length_s) if whole > 1 else 0.0)

    def _within(self, start_s: float, end_s: float) -> float:
        """The same where the trace does not begin again: a sum of what is never negative."""
        first = int(np.searchsorted(self.edges_s, start_s, side="right")) - 1
        last = int(np.searchsorted(self.edges_s, end_s, side="left"))
        edges = np.clip(self.edges_s[first : last + 1], start_s, end_s)
        return float(np.diff(edges) @ self.rate_bit_per_s[first:last])
