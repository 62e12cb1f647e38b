"""Tensors at the cut turned into bytes and back: sparsify, quantise, entropy-code, packet.

Each stage is one small file and knows only its own arrays; a codec (`paper`, `raw`) composes them.
Knows no torch, no link and no model: a tensor here is a numpy array `[batch, token, width]`.
"""
