"""Every test runs with shapes and types checked: jaxtyping's hook puts beartype on the package."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("cutlayer", "type_checker.checked")

# machines are shared: how long an example takes says nothing
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
