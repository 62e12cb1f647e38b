"""A training scheme's round, described once: the timeline gives it seconds, the trainer tensors.

Knows the order of steps and where each happens; no sizes, no rates, no tensors.
"""
