"""Channels: what a link carries per second. Knows no model and no payload.

`rates` is the interface, `shannon` the rate of a bandwidth share; `fading` has the channel of SNRs,
`traces` that of measured rates; `cell` says where SNRs come from.
"""
