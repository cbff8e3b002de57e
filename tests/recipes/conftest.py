"""The tiny plan and the command line of ``tests/plans.py``, and small folders of public data sets."""

from functools import cache

import pytest

from ..pictures import labels, noise, parquet
from ..plans import cli, command, text, tiny
from .shrink import CLASSES, TEST, TRAIN

__all__ = ["cli", "command", "folder_of", "text", "tiny"]

# image and label column, classes, side, and what the split to test on is called
LAYOUTS = {
    "cifar10": ("img", "label", 10, 32, "test"),
    "cifar100": ("img", "fine_label", 100, 32, "test"),
    "svhn": ("image", "label", 10, 32, "test"),
    "tiny-imagenet": ("image", "label", 200, 64, "valid"),
    "imagenet": ("image", "label", 1000, 64, "validation"),
}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Data set to a folder of its layout, made once: images of noise, in ten classes by turns."""

    @cache
    def made(name):
        image, label, classes, side, test = LAYOUTS[name]
        folder = tmp_path_factory.mktemp(name)
        for part, first, n in (("train", 0, TRAIN), (test, TRAIN, TEST)):  # no image twice
            kinds = labels([f"class {c}" for c in range(classes)], [i % CLASSES for i in range(n)])
            images = [noise(first + i, (side, side)) for i in range(n)]
            parquet(folder / f"{part}.parquet", images, image=image, **{label: kinds})
        return folder

    return made
