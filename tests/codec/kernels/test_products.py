"""Products with a basis: every form gives numpy's bits, and what the definition says."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codec.forms import FORMS, alike
from cutlayer.codec.kernels.native import Native
from cutlayer.codec.kernels.portable import Portable
from cutlayer.codec.kernels.threads import RUN_ROWS
from cutlayer.training.torch_codec import DeviceKernels
from examples import at_most

HOSTS = FORMS[:3]
# OpenBLAS takes more than one thread, whose sums begin elsewhere, for more products than these
FEW = 262_144


def drawn(rows, inner, columns, seed=0):
    """Rows, a mean of them, a basis."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, inner), dtype=np.float32)
    mean = rng.standard_normal(inner, dtype=np.float32)
    return values, mean, rng.standard_normal((inner, columns), dtype=np.float32)


def check_product(rows, inner, columns):
    """Both ways, in all forms on the host."""
    values, mean, basis = drawn(rows, inner, columns)
    for centre in (mean, None):
        turned = [form.turn(values, centre, basis) for form in HOSTS]
        # the columns of most energy alone, as a decoder has them
        some = max(columns * 2 // 3, 1)
        back = [form.turn_back(turned[0][:, :some], centre, basis) for form in HOSTS]
        for found in (turned, back):
            for other in found[1:]:
                alike(found[0], other)
        assert turned[0].shape == (rows, columns)
        assert back[0].shape == (rows, inner)


@at_most(60)
@given(st.integers(0, 60), st.integers(1, 900), st.integers(1, 700))
def test_all_forms_multiply_to_the_same_bits(rows, inner, columns):
    while rows * inner * columns > FEW:
        rows, inner, columns = rows // 2 + 1, inner * 3 // 4 + 1, columns * 3 // 4 + 1
    check_product(rows, inner, columns)


@pytest.mark.parametrize("rows", [1, RUN_ROWS, RUN_ROWS + 1, 2 * RUN_ROWS + 5])
def test_a_product_is_the_same_with_any_number_of_threads(rows):
    check_product(rows, 40, 7)


def test_products_of_a_codecs_size_have_the_bits_of_numpy_on_one_thread():
    code = """
from codec.kernels.test_products import check_product
for shape in ((272, 384, 128), (272, 384, 384), (790, 768, 256), (35, 700, 651)):
    check_product(*shape)
"""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **one, "PYTHONPATH": paths}, check=True
    )


@pytest.mark.parametrize("centred", [True, False])
def test_a_turn_is_what_it_says(centred):
    values, mean, basis = drawn(30, 50, 20)
    centre = mean if centred else None
    wide = values.astype(float) - (mean if centred else 0)
    for form in FORMS[:3]:
        # float32's rounding of a sum of 50 products of about 1
        np.testing.assert_allclose(form.turn(values, centre, basis), wide @ basis, atol=1e-4)
        back = form.turn_back(values[:, :15], centre, basis)
        expected = values[:, :15].astype(float) @ basis[:, :15].T + (mean if centred else 0)
        np.testing.assert_allclose(back, expected, atol=1e-4)


@pytest.mark.parametrize("centred", [True, False])
def test_a_device_turns_its_own_arrays(centred):
    values, mean, basis = drawn(30, 50, 20)
    there = DeviceKernels(torch.device("cpu"), Portable())
    arguments = [torch.from_numpy(array) for array in (values, mean, basis)]
    arguments[1] = arguments[1] if centred else None
    centre = mean if centred else None
    expected = Portable().turn(values, centre, basis)
    # the two sum in their own order: float32's rounding of 50 products of about 1
    np.testing.assert_allclose(there.turn(*arguments).numpy(), expected, atol=1e-4)
    arguments[0] = arguments[0][:, :20]
    expected = Portable().turn_back(values[:, :20], centre, basis)
    np.testing.assert_allclose(there.turn_back(*arguments).numpy(), expected, atol=1e-4)


def test_rows_may_be_a_part_of_wider_ones():
    values, mean, basis = drawn(40, 64, 32)
    wide = np.concatenate([values, values], axis=1)
    for form in (Portable(), Native()):
        alike(form.turn(wide[:, :64], mean, basis), form.turn(values, mean, basis))
        alike(
            form.turn_back(wide[:, :32], mean, basis), form.turn_back(values[:, :32], mean, basis)
        )
