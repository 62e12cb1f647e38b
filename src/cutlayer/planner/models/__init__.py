"""Models that were described already, in files: the built-in job's and the examples'.

Each is named by the key of what was asked (`config.model_spec.Request`).
"""
