"""Models that were described already, in files: the built-in job's and the examples'.

Each is named by the key of what was asked (`planner.model_file.ModelRequest`).
"""
