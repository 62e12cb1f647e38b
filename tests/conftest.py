"""How tests run: quickly, or with shapes and types checked at every call and many examples.

`CUTLAYER_TESTS=all` is the second: jaxtyping's hook puts beartype on the package, and Hypothesis
draws as many examples as a test asks for.
"""

import os

from hypothesis import settings

# tiny tensors on shared cores: more threads would only wait for each other, here and in the
# commands that tests start
os.environ["OMP_NUM_THREADS"] = "1"

ALL = os.environ.get("CUTLAYER_TESTS", "") == "all"

if ALL:
    from jaxtyping import install_import_hook

    install_import_hook("cutlayer", "type_checker.checked")

# machines are shared: how long an example takes says nothing
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("all", deadline=None)
settings.load_profile("all" if ALL else "quick")
