"""What every trained figure is tried on."""

import pytest
import tiny

from reproduction.catalogue import Options


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """A quick figure of a tiny model on tiny images."""
    root = tmp_path_factory.mktemp("job")
    data, model = tiny.images(root / "images"), tiny.vision_model(root / "model")
    return Options(str(data), str(model), cut=2, rounds=None, seeds=1, quick=True)
