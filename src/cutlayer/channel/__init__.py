"""Rates: what a link carries per second. Knows no model and no payload.

`rates` is the interface; `snr_channel` (Shannon rates, fading) and `trace_channel` (measured
traces) implement it; `path_loss`, `link_budget` and `drop` say where signal-to-noise ratios come
from.
"""
