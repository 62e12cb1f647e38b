"""What to choose: cut, codec, mini-batch policy, and each round's bandwidth allocation.

Works on numbers alone: needs numpy and scipy, neither torch nor files of a run.
"""
