"""The tasks."""

from typing import Literal

Task = Literal["image-classification", "text-classification", "causal-lm"]
