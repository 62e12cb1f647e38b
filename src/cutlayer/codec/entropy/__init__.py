"""Symbols to bytes without loss: fixed width, Golomb-Rice, two-way contexts. Know no values."""
