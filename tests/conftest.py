"""Every test runs with shapes and types checked: jaxtyping's hook puts beartype on the package."""

from jaxtyping import install_import_hook

install_import_hook("cutlayer", "type_checker.checked")
