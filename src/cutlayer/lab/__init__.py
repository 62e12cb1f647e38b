"""A run between real processes over shaped links, and its delays beside the predicted ones.

Knows a job and a machine. What is trained, sent and measured is `net`'s, what is predicted the
timeline's.
"""
