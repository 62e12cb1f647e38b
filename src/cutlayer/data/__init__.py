"""Finds pretrained models and data sets, reads and checks samples, and deals them to devices.

Knows files, the user's cache, the Hugging Face hub and packages; hands out numpy arrays and
strings. Knows no torch, no split and no scheme.
"""
