"""cutlayer: split fine-tuning of transformers on devices too small to hold the model."""

import logging

from cutlayer.version import __version__

__all__ = ["__version__"]

# a library says nothing unless the program asks for it
logging.getLogger(__name__).addHandler(logging.NullHandler())
