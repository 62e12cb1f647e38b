"""Rates: what a link carries per second. Knows no model, no payload and no clock."""
