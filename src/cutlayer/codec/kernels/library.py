"""The compiled library: its functions, called with arrays and numbers, and what is wrong in words.

Knows `_native.c`'s functions and the types of their arguments, nothing of what they compute but
this: whether its products have numpy's bits.
"""

import ctypes
from functools import cache
from importlib.util import find_spec
from typing import Any, final

import numpy as np

from cutlayer.errors import PacketError

LIBRARY = "cutlayer.codec.kernels._native"
VERSION = 3  # of the functions' arguments; the same number is in the C file

PROBLEMS = {
    -1: "a table of frequencies that is needed does not exist or does not sum to 4096",
    -2: "a lane does not begin at 65536 or more, or does not end there: the code is damaged",
    -3: "the code ends before the symbols do",
    -4: "the code goes on after the last symbol",
    -5: "a symbol is larger than the number of points",
    -6: "tables: a hazard that is no probability",
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
    "multiplies": "",
    "product": "pipppiiipp",
    "transposed": "piiip",
    "sums": "piiipppp",
    "used_tables": "pippiiipp",
    "layout": "pippippppp",
    "refine": "piiiipipipppp",
    "write_model": "piiiiiiipppppppp",
    "write_excesses": "piiipp",
    "histogram": "piiipppiiiipp",
    "encoder_tables": "piip",
    "rans_encode": "piiipppiiipppi",
    "decoder_tables": "piippp",
    "rans_decode": "piiiipppiiipppp",
    "pack": "piiip",
    "unpack": "piip",
    "write_hazards": "ppiipipppp",
    "read_hazards": "pipiipippp",
    "magnitude_shares": "piip",
    "twelve_bits": "piip",
    "short_encode": "pippp",
    "short_decode": "piipipp",
}
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "u": ctypes.c_uint64, "f": ctypes.c_float}
# rows, steps and columns of products that tell whose kernels numpy has
TOLD_BY = ((20, 330, 39), (14, 20, 700))


def library_path() -> str | None:
    """Where the compiled library is, or None where it was not built."""
    spec = find_spec(LIBRARY)
    return None if spec is None else spec.origin


def _opened(path: str) -> ctypes.CDLL:
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


@final
class Library:
    """The functions of `_native.c`. `multiplies`: whether there is `product`, with numpy's bits."""

    def __init__(self, path: str | None = None) -> None:
        """`path`: of a library that is not beside. Raises OSError: there is none, or another."""
        path = path if path is not None else library_path()
        if path is None:
            raise OSError(f"{LIBRARY} was not built")
        self._functions = _opened(path)
        self.multiplies = _multiplies(path)

    def call(self, name: str, *arguments: Any) -> int:
        """The function's result. Raises PacketError for an error code."""
        values = [
            address(argument) if isinstance(argument, np.ndarray) else argument
            for argument in arguments
        ]
        result: int = getattr(self._functions, f"cutlayer_{name}")(*values)
        if result < 0:
            raise PacketError(PROBLEMS[result])
        return result


@cache
def _multiplies(path: str) -> bool:
    """Whether the library's products have numpy's bits: it knows one BLAS' order of sums, and needs
    AVX-512. Else numpy multiplies, and a packet is the same in either form."""
    library = _opened(path)
    if not library.cutlayer_multiplies():
        return False
    rng = np.random.default_rng(0)
    for rows, inner, columns in TOLD_BY:
        left = rng.standard_normal((rows, inner), dtype=np.float32)
        right = rng.standard_normal((inner, columns), dtype=np.float32)
        out = np.empty((rows, columns), dtype=np.float32)
        scratch = np.empty(1, dtype=np.float32)
        sizes = (rows, inner, columns)
        library.cutlayer_product(
            *(address(left), inner, None, address(right), None),
            *(*sizes, address(scratch), address(out)),
        )
        if not np.array_equal(out, left @ right):
            return False
    return True


def aligned(array: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """The array as C code can read it: contiguous, aligned, in this machine's byte order."""
    found = np.ascontiguousarray(array, dtype)
    return found if found.flags.aligned else found.copy()


def address(array: np.ndarray) -> int:
    """Of the first byte; the short way, which takes arrays that may be written to."""
    if array.size and array.flags.writeable and array.flags.c_contiguous:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return int(array.ctypes.data)
