"""The tiny models of the training tests."""

from training.conftest import bert, llama, vision

__all__ = ["bert", "llama", "vision"]
