"""The compiled library: where it is, which functions it has, what their errors mean.

Knows names and types of arguments; nothing of what the functions compute.
"""

import ctypes
from importlib.util import find_spec

LIBRARY = "cutlayer.codec.kernels._native"
VERSION = 3  # of the functions' arguments; the same number is in the C file

PROBLEMS = {
    -1: "a table of frequencies that is needed does not exist or does not sum to 4096",
    -2: "a lane does not begin at 65536 or more, or does not end there: the code is damaged",
    -3: "the code ends before the symbols do",
    -4: "the code goes on after the last symbol",
    -5: "a symbol is larger than the number of points",
}

# arguments, one letter each: p an array, i an integer, u an unsigned one, f a float32
ARGUMENTS = {
    "version": "",
    "top_k": "pppiipp",
    "largest": "pii",
    "extremes": "pppiipp",
    "quantise_levels": "pppippiuiip",
    "dequantise_points": "ppipiiip",
    "quantise_dead_zone": "piffpp",
    "dequantise_dead_zone": "pifffp",
    "quantise_rows": "piiiifppp",
    "dequantise_rows": "ppiiiifpp",
    "hadamard": "piiifipp",
    "sums": "piiipppp",
    "used_tables": "pippiiipp",
    "histogram": "piiipppiiiipp",
    "encoder_tables": "piip",
    "rans_encode": "piiipppiiipppi",
    "decoder_tables": "piippp",
    "rans_decode": "piiiipppiiipppp",
    "pack": "piiip",
    "unpack": "piip",
}
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "u": ctypes.c_uint64, "f": ctypes.c_float}


def library_path() -> str | None:
    """Where the compiled library is, or None where it was not built."""
    spec = find_spec(LIBRARY)
    return None if spec is None else spec.origin


def opened(path: str) -> ctypes.CDLL:
    """The library, its functions' types set. Raises OSError: it is none, or of another version."""
    library = ctypes.CDLL(path)
    for name, letters in ARGUMENTS.items():
        function = getattr(library, f"cutlayer_{name}", None)
        if function is None:
            raise OSError(f"{path}: no function cutlayer_{name}; reinstall cutlayer")
        function.argtypes = [TYPES[letter] for letter in letters]
        function.restype = ctypes.c_int64
    found = library.cutlayer_version()
    if found != VERSION:
        raise OSError(f"{path}: version {found} instead of {VERSION}; reinstall cutlayer")
    return library
