"""Models and data sets that come inside packages: fetched, verified, converted, kept in the cache.

Knows pip, apt and npm as commands and the cache's folders; knows nothing of samples or training.
"""
