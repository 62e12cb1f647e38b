"""One arena for all threads, by glibc's own account."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# threads that are there at the same time allocate; then glibc says what arenas it has
PROGRAM = """
import ctypes, sys, threading
from cutlayer.cli.network import share_one_arena

if sys.argv[1] == "shared":
    share_one_arena()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.fclose.argtypes = (ctypes.c_void_p,)
there = threading.Barrier(4)

def allocate():
    there.wait()
    libc.malloc(1000)
    there.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="needs glibc")
@pytest.mark.parametrize(
    ("how", "setting", "one"),
    [("shared", None, True), ("not", None, False), ("shared", "8", False)],
)
def test_threads_share_an_arena_unless_the_user_says_otherwise(
    how: str, setting: str | None, one: bool, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"}
    if setting is not None:
        environment["MALLOC_ARENA_MAX"] = setting
    told = tmp_path / "arenas.xml"
    subprocess.run([sys.executable, "-c", PROGRAM, how, told], env=environment, check=True)
    arenas = re.findall("<heap nr", told.read_text(encoding="ascii"))
    assert (len(arenas) == 1) is one
