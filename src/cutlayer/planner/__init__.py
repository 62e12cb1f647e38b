"""What to choose: cut, codec, how a mini-batch is held, and each round's shares of the band.

Works on numbers alone: needs numpy and scipy, neither torch nor files of a run.
"""
