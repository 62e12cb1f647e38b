import numpy as np
import pytest
from PIL import Image

from cutlayer.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageBatches,
    central_square,
)
from cutlayer.data.samples import ImageArray
from cutlayer.errors import DataError
from data.sets import picture, texts


def test_pixels_are_scaled_and_normalised_channel_by_channel() -> None:
    images = np.stack([picture(1), picture(2)])
    samples = ImageArray(images, np.array([4, 5]), "memory")
    batch = ImageBatches(8, IMAGENET_MEAN, IMAGENET_STD).make(samples, np.array([1, 0]))
    pixels = batch.inputs["pixel_values"]
    assert pixels.dtype == np.float32
    expected = (images[::-1] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    # values up to 2.7, a handful of float32 roundings of 6e-8 each
    np.testing.assert_allclose(pixels, expected.transpose(0, 3, 1, 2), atol=2e-6)
    assert batch.labels.tolist() == [5, 4]
    assert batch.lengths is None


def test_a_square_image_is_resized_as_pillow_does() -> None:
    expected = Image.fromarray(picture(3)).resize((14, 14), Image.Resampling.BICUBIC)
    assert np.array_equal(central_square(picture(3), 14), np.asarray(expected))


def test_an_image_of_the_right_size_is_left_alone() -> None:
    assert np.array_equal(central_square(picture(4), 8), picture(4))


@pytest.mark.parametrize("turned", [False, True])
def test_an_oblong_image_gives_its_central_square(turned: bool) -> None:
    middle = picture(5)
    sides = np.zeros((8, 3, 3), np.uint8)
    oblong = np.concatenate([sides, middle, sides], axis=1)
    if turned:
        oblong, middle = oblong.transpose(1, 0, 2), middle.transpose(1, 0, 2)
    assert np.array_equal(central_square(oblong, 8), middle)


def test_grey_images_become_three_equal_channels() -> None:
    samples = ImageArray(picture(6)[None, :, :, 0], np.array([0]), "memory")
    pixels = ImageBatches(8, (0.5,) * 3, (0.5,) * 3).make(samples, np.array([0]))
    red, green, blue = pixels.inputs["pixel_values"][0]
    assert np.array_equal(red, green)
    assert np.array_equal(red, blue)


def test_a_text_is_not_an_image() -> None:
    with pytest.raises(DataError, match="memory line 1 is not an image"):
        ImageBatches(8, (0.5,) * 3, (0.5,) * 3).make(texts(["words"]), np.array([0]))
