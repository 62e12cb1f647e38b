"""cutlayer: fine-tune transformers on devices too small to hold them."""

__version__ = "0.1.0"
