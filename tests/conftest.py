"""How tests run: quickly, or with shapes and types checked at every call and many examples.

`CUTLAYER_TESTS=typed` puts beartype under every call of the package, by jaxtyping's hook: three to
eight times the time. `CUTLAYER_TESTS=all` is that, and as many of Hypothesis' examples as a test
asks for. `--every N` takes every N-th test of each folder, for a sample of them.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

# tiny tensors on shared cores: more threads would only wait for each other, here and in the
# commands that tests start
os.environ["OMP_NUM_THREADS"] = "1"

# what is found of models is kept in a folder of the session, not in the user's cache; workers and
# commands that tests start have the same
if "CUTLAYER_CACHE" not in os.environ:
    _SESSION = TemporaryDirectory(prefix="cutlayer-tests-", ignore_cleanup_errors=True)
    os.environ["CUTLAYER_CACHE"] = _SESSION.name

if os.environ.get("CUTLAYER_TESTS") in ("typed", "all"):
    from jaxtyping import install_import_hook

    install_import_hook(["cutlayer", "reproduction"], "type_checker.checked")

# machines are shared: how long an example takes says nothing
settings.register_profile(
    "cutlayer", deadline=None, max_examples=100 if os.environ.get("CUTLAYER_TESTS") == "all" else 20
)
settings.load_profile("cutlayer")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The sample's size."""
    parser.addoption(
        "--every", type=int, default=1, metavar="N", help="run every N-th test of each folder"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """A slow test says why it is; of what markers choose, only the sample is kept."""
    for item in items:
        marker = item.get_closest_marker("slow")
        if marker is not None and not (len(marker.args) == 1 and str(marker.args[0]).strip()):
            raise pytest.UsageError(f'{item.nodeid}: say why: @pytest.mark.slow("…")')
    yield
    every = config.getoption("--every")
    if every > 1:
        by_folder: dict[Path, list[pytest.Item]] = defaultdict(list)
        for item in items:
            by_folder[item.path.parent].append(item)
        kept = {id(item) for folder in by_folder.values() for item in folder[::every]}
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
        items[:] = [item for item in items if id(item) in kept]


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with tiny stand-ins of the packaged model and data, which tests only read."""
    import tiny  # brings torch, which most tests do without

    return tiny.cache(tmp_path_factory.mktemp("packaged"))
