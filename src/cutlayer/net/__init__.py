"""The network runtime: a round in packets, between devices and a server.

The sessions know no socket and no clock; links carry their frames.
"""
