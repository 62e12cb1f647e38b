"""Tiny models and data, made once for all tests of training."""

from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="session")
def vision(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny vision model and images."""
    root = tmp_path_factory.mktemp("vision")
    return tiny.vision_model(root / "model"), tiny.images(root / "images")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny BERT and reviews."""
    root = tmp_path_factory.mktemp("bert")
    return tiny.text_model(root / "model", "bert"), tiny.reviews(root / "reviews")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Llama and a corpus."""
    root = tmp_path_factory.mktemp("llama")
    return tiny.text_model(root / "model", "llama"), tiny.corpus(root / "corpus")
