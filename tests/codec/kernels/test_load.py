"""Which form is loaded, and what is said about it."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from cutlayer.codec.kernels.native import Native
from cutlayer.config.choices import BestCodec
from cutlayer.jobs.build import make_codecs


def loaded(before="", **environment):
    """What a fresh interpreter prints and warns when it loads twice."""
    code = f"""
import sys
{before}
from cutlayer.codec.kernels.native import load_kernels
print(type(load_kernels()).__name__, type(load_kernels(2)).__name__)
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_numpy_form_can_be_asked_for():
    found = loaded(CUTLAYER_PORTABLE="1")
    assert found.stdout == "Portable Portable\n"
    assert found.stderr == ""


def test_the_native_form_is_taken_where_it_is_built():
    found = loaded()
    assert found.stdout == "Native Native\n"
    assert found.stderr == ""


def test_a_missing_native_form_is_reported_once():
    found = loaded(before="sys.modules['cutlayer.codec.kernels._native'] = None")
    assert found.stdout == "Portable Portable\n"
    assert found.stderr.count("RuntimeWarning") == 1
    assert "Install a C compiler" in found.stderr


def test_a_file_that_is_no_library_is_refused(tmp_path):
    (tmp_path / "_native.so").write_bytes(b"no library")
    with pytest.raises(OSError, match="_native"):
        Native(library=str(tmp_path / "_native.so"))


def test_the_codecs_of_a_process_share_their_threads():
    """A pool a direction would be made again for every run, and for each of eight threads."""
    made = [make_codecs(BestCodec(), 10, threads=3) for _ in range(4)]
    pools = {id(codec.kernels.threads.pool) for pair in made for codec in (pair.up, pair.down)}
    assert len(pools) == 1
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((8, 50, 64), dtype=np.float32)
    before = threading.active_count()
    for pair in made:
        for codec in (pair.up, pair.down):
            codec.encode(tensor, {}, np.random.default_rng(0))
    assert threading.active_count() <= before + 2
