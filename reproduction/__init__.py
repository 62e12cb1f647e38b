"""The paper's tables and figures, made again: the same quantities from real training runs and
formulas of `cutlayer`, beside the published numbers, each with a verdict and its reason.

    python -m reproduction [NAME | all | list]

See README.md here for what each takes and what came out. Nothing in `cutlayer` knows of it.
"""
