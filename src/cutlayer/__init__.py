"""cutlayer: fine-tune transformers on devices too small to hold them."""

import logging

from cutlayer.version import __version__

__all__ = ["__version__"]

# a library says nothing unless the program asks for it
logging.getLogger(__name__).addHandler(logging.NullHandler())
