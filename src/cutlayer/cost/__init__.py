"""Closed forms: what a step costs in FLOPs, bytes sent and bytes held, and a round in seconds.

Knows no tensors. Two accountings stand side by side: `paper`, its formulas as printed, and
`physical`, what a frozen base with adapters really computes, sends and holds.
"""
