"""The paper's tables and figures, made again: the same quantities from real trainings and formulas
of this package, beside the numbers that the paper prints, each with a verdict and its reason.
"""
