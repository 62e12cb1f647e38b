"""Tiny data sets on disk in every form that the loaders read."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cutlayer.data.samples import Samples, TextRows


def picture(seed: int, side: int = 8) -> UInt8[np.ndarray, "side side 3"]:
    """A picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def class_images(folder: Path, classes: tuple[str, ...], count: int) -> None:
    """`folder/CLASS/N.png`, `count` of each class."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = picture(place * 100 + number)
            Image.fromarray(image).save(folder / name / f"{number}.png")


def cifar_records(labels: list[int]) -> bytes:
    """CIFAR-100 records with these fine labels; record n is noise of seed n, red plane first."""
    pixels = (picture(seed, 32).transpose(2, 0, 1).tobytes() for seed in range(len(labels)))
    return b"".join(
        bytes([0, label]) + planes for label, planes in zip(labels, pixels, strict=True)
    )


def tiny_imagenet(folder: Path, wnids: tuple[str, ...], count: int) -> None:
    """Tiny-ImageNet's form: `count` training images a class, one validation image a class."""
    (folder / "val" / "images").mkdir(parents=True)
    annotations, words = [], []
    for place, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(picture(place * 100 + number))
            image.save(images / f"{wnid}_{number}.JPEG")
        Image.fromarray(picture(place)).save(folder / "val" / "images" / f"val_{place}.JPEG")
        annotations.append(f"val_{place}.JPEG\t{wnid}\t0\t0\t7\t7")
        words.append(f"{wnid}\tname{place}, other name")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(annotations) + "\n")
    (folder / "words.txt").write_text("\n".join(words) + "\n")


def json_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def texts(contents: list[str | None], labels: list[int] | None = None) -> Samples:
    """Texts in memory, line n the n-th from 1."""
    count = len(contents)
    return TextRows(
        texts=tuple(contents),
        labels=np.array(labels if labels is not None else [0] * count, np.int64),
        raw_labels=("raw",) * count,
        lines=np.arange(1, count + 1),
        origin="memory",
    )
