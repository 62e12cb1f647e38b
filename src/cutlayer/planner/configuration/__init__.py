"""Cut and compression (P1): the problem, the exact solver, Algorithm 2 as printed and mended."""
