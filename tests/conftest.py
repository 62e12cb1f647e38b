"""Every test runs with shapes and types checked: jaxtyping's hook puts beartype on the package."""

import os

from hypothesis import settings
from jaxtyping import install_import_hook

# tiny tensors on shared cores: more threads would only wait for each other, here and in the
# commands that tests start
os.environ["OMP_NUM_THREADS"] = "1"

install_import_hook("cutlayer", "type_checker.checked")

# machines are shared: how long an example takes says nothing
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
