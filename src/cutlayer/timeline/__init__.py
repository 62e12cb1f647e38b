"""Seconds: a round's steps on a virtual clock, with the queue at the server. Nothing sleeps."""
