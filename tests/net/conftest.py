"""The tiny models of the training tests."""

from train.conftest import bert, llama, vision

__all__ = ["bert", "llama", "vision"]
