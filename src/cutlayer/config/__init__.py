"""A run's configuration: strict YAML and command-line overrides into values, values into a run.

A configuration never enters a class below this layer; its fields do.
"""
