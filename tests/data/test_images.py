"""Pictures as model inputs, and how a model's file says to prepare them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import ViTImageProcessor

from cutlayer.data.batches import (
    ImageBatches,
    Preprocessing,
    read_preprocessing,
)
from cutlayer.data.image_sets import ImageFiles, central_square
from cutlayer.data.samples import ImageArray
from cutlayer.errors import AssetError, DataError
from cutlayer.jobs.dataset import image_batches
from data.sets import picture, texts

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_pixels_are_scaled_and_normalised_channel_by_channel() -> None:
    images = np.stack([picture(1), picture(2)])
    samples = ImageArray(images, np.array([4, 5]), "memory")
    batch = ImageBatches(8, MEAN, STD).make(samples, np.array([1, 0]))
    pixels = batch.inputs["pixel_values"]
    assert pixels.dtype == np.float32
    expected = (images[::-1] / 255 - MEAN) / STD
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


SIDE = 14


def written(folder: Path, **settings: object) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_a_folder_without_the_file_is_for_a_plain_vit(tmp_path: Path) -> None:
    plain = read_preprocessing(tmp_path)
    assert plain == Preprocessing(note=plain.note)
    assert (
        plain.note is not None
        and "no preprocessor_config.json is in the model folder" in plain.note
    )
    assert (plain.mean, plain.std, plain.levels) == ((0.5,) * 3, (0.5,) * 3, 255.0)


def test_a_file_of_all_processors_serves_where_there_is_no_other(tmp_path: Path) -> None:
    whole = {"image_processor": {"do_normalize": False}, "tokenizer": {}}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    read = read_preprocessing(tmp_path)
    assert (read.mean, read.std, read.note) == ((0.0,) * 3, (1.0,) * 3, None)
    assert read_preprocessing(written(tmp_path, image_mean=0.25)).mean == (0.25,) * 3


def test_mean_and_deviation_are_by_channel_or_one_for_all(tmp_path: Path) -> None:
    read = read_preprocessing(written(tmp_path, image_mean=[0.1, 0.2, 0.3], image_std=2))
    assert (read.mean, read.std) == ((0.1, 0.2, 0.3), (2.0, 2.0, 2.0))
    nulls = written(tmp_path, size=None, do_center_crop=None, crop_size=None, resample=None)
    assert read_preprocessing(nulls) == Preprocessing()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": 0.25, "image_std": [0.1, 0.2, 0.3]},
        {"do_normalize": None},
        {"resample": 0},
        {"resample": 3},
        {"resample": 1, "do_convert_rgb": True},
    ],
)
def test_pixels_are_those_of_transformers(tmp_path: Path, settings: dict[str, object]) -> None:
    """A square picture: there the whole is the central square."""
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    image = tmp_path / "a.png"
    Image.fromarray(picture(1, 20)).save(image)
    samples = ImageFiles((image,), np.zeros(1, np.int64))
    batches = image_batches(tmp_path, SIDE)
    ours = batches.make(samples, np.array([0])).inputs["pixel_values"]
    with Image.open(image) as opened:
        theirs = ViTImageProcessor.from_pretrained(tmp_path)(opened, return_tensors="np")
    # values up to 2550 where the deviation is 0.1 of unscaled pixels: float32 roundings of 6e-8
    np.testing.assert_allclose(ours, theirs["pixel_values"], rtol=1e-5, atol=1e-5)


def test_a_missing_key_is_what_the_models_own_class_takes(tmp_path: Path) -> None:
    bit = read_preprocessing(written(tmp_path, image_processor_type="BitImageProcessor"))
    assert bit.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert bit.resample is Image.Resampling.BICUBIC
    vit = read_preprocessing(written(tmp_path, image_processor_type="ViTImageProcessor"))
    assert vit.resample is Image.Resampling.BILINEAR
    unknown = read_preprocessing(written(tmp_path, image_processor_type="NoSuchProcessor"))
    assert unknown == Preprocessing()


def test_size_and_cut_out_are_told(tmp_path: Path) -> None:
    crop = {"height": 224, "width": 224}
    size = {"shortest_edge": 256}
    read = read_preprocessing(written(tmp_path, size=size, do_center_crop=True, crop_size=crop))
    assert read.framing == "resize to shortest_edge 256, central 224 x 224"
    assert read_preprocessing(written(tmp_path, size=32, crop_pct=0.9)).framing == (
        "resize to 32, crop_pct 0.9"
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("no json", "cannot be read"),
        ("[]", "not one object"),
        ("[" * 100_000, "cannot be read"),
        ('{"image_mean": [1]}', "image_mean is for 1 channels"),
        ('{"image_std": [1, 1]}', "image_std is for 2 channels"),
        ('{"image_mean": null}', "image_mean is None: write a number"),
        ('{"rescale_factor": null}', "rescale_factor is None: write a number"),
        ('{"image_std": 0}', "each must be above 0"),
        ('{"image_mean": "0.5"}', "image_mean is '0.5': write a number"),
        ('{"image_mean": NaN}', "image_mean is nan: write a finite number"),
        ('{"rescale_factor": 0}', "rescale_factor is 0"),
        ('{"rescale_factor": true}', "rescale_factor is True"),
        ('{"do_rescale": "yes"}', "do_rescale is 'yes': write true or false"),
        ('{"do_resize": false}', "do_resize is false"),
        ('{"do_flip_channel_order": true}', "do_flip_channel_order is True"),
        ('{"rescale_offset": true}', "rescale_offset is True"),
        ('{"do_pad": true}', "do_pad is True"),
        ('{"resample": 17}', "resample is 17; known are 0 nearest"),
        ('{"resample": {}}', "resample is {}; known are"),
    ],
)
def test_what_is_not_done_is_refused_by_name(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(AssetError) as caught:
        read_preprocessing(tmp_path)
    assert named in str(caught.value)
    assert "preprocessor_config.json" in str(caught.value)
