"""Shares of the band (P2): the problem, the exact solver with its certificate, and Algorithm 3."""
