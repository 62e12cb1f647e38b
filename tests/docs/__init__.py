"""Tests of the README and the documents."""
