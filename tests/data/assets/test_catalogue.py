import re

import pytest

from cutlayer.data.assets.catalogue import CATALOGUE, Asset, known_asset, nearest_known
from cutlayer.data.assets.data_sets import ICON_NAMES
from cutlayer.data.assets.packages import DebianPackages, NpmTarball, Wheel


def test_the_names_that_the_documentation_promises() -> None:
    kinds = {name: asset.kind for name, asset in CATALOGUE.items()}
    assert kinds == {
        "dinov2-small": "model",
        "minilm": "model",
        "smollm2": "model",
        "fashion-mnist": "data",
        "icons-200": "data",
        "wordnet-glosses": "data",
        "spam-assassin": "data",
        "brown": "data",
    }


@pytest.mark.parametrize("asset", CATALOGUE.values(), ids=lambda asset: asset.name)
def test_every_download_is_pinned(asset: Asset) -> None:
    package = asset.package
    if isinstance(package, Wheel | NpmTarball):
        hashes = [package.sha256]
    else:
        assert isinstance(package, DebianPackages)
        hashes = [sha256 for _, sha256 in package.pins]
    # the icon themes differ between releases: see the converter's docstring
    assert hashes or asset.name == "icons-200"
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in hashes)


def test_an_asset_is_known_by_name_and_by_hub_id() -> None:
    assert known_asset("dinov2-small", "model") is known_asset("facebook/dinov2-small", "model")
    assert known_asset("dinov2-small", "data") is None
    assert known_asset("something", "model") is None


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    assert nearest_known("fashion_mnist") == "did you mean fashion-mnist?"
    assert nearest_known("owner/DINOv2-smal", "model") == "did you mean dinov2-small?"
    assert nearest_known("qwerty", "model") == "known: dinov2-small, minilm, smollm2"


def test_two_hundred_icon_names() -> None:
    assert len(set(ICON_NAMES)) == len(ICON_NAMES) == 200
    assert list(ICON_NAMES) == sorted(ICON_NAMES)
