"""Training: a scheme's round played with tensors, rounds into a run, a run into a directory.

Knows no sockets and no configuration file.
"""
