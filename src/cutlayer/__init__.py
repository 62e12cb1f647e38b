"""cutlayer: fine-tune transformers on devices too small to hold them."""

import logging

__version__ = "0.1.0"

# a library says nothing unless the program asks for it
logging.getLogger(__name__).addHandler(logging.NullHandler())
