"""Sets of images on disk: tiny ones, laid out as the hub or as people lay them out, and real ones."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REAL = Path(__file__).parents[2] / "shared" / "data"


def real(name: str) -> Path:
    """A folder of real data beside the project: a test that asks skips where it is missing, but not in CI."""
    folder = REAL / name
    if not folder.is_dir():
        why = f"needs the real images of {folder}, and there is no such folder"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return folder


def noise(seed: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> Image.Image:
    """An image that no other seed gives: width x height, in one of Pillow's modes."""
    rng = np.random.default_rng([7, seed])
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, size[::-1], dtype=np.uint16))
    colour = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    if mode in ("RGBA", "LA"):
        colour.putalpha(Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)))
    return colour.quantize(16) if mode == "P" else colour.convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **knobs: Any) -> bytes:
    """An image as the bytes of a file."""
    held = io.BytesIO()
    image.save(held, form, **knobs)
    return held.getvalue()


def pixels(images: Sequence[Image.Image], mode: str = "RGB") -> np.ndarray:
    """[n, c, h, w]: what Pillow makes of them."""
    found = np.stack([np.asarray(image.convert(mode)) for image in images])
    return found[:, None] if found.ndim == 3 else found.transpose(0, 3, 1, 2)


def parquet(
    file: Path, pictures: Sequence[Image.Image | bytes | None], *, image: str = "image", **columns: Any
) -> Path:
    """A parquet file as the hub has them; each column is a list of values, or a pair of feature and list."""
    import datasets

    cells = [
        None
        if one is None
        else {"bytes": encoded(one) if isinstance(one, Image.Image) else one, "path": None}
        for one in pictures
    ]
    features: dict[str, Any] = {image: datasets.Image()}
    values: dict[str, Any] = {image: cells}
    for name, given in columns.items():
        if isinstance(given, tuple):
            features[name], values[name] = given
        else:
            kind = {int: "int64", str: "string", bool: "bool", float: "float64"}[type(given[0])]
            features[name], values[name] = datasets.Value(kind), given
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(values, features=datasets.Features(features)).to_parquet(file)
    return file


def labels(names: Sequence[str], values: Sequence[int | None]) -> tuple[Any, list[int | None]]:
    """A column of class labels."""
    import datasets

    return datasets.ClassLabel(names=list(names)), list(values)


def two_classes(folder: Path, n: int = 6, size: tuple[int, int] = (8, 8), **columns: Any) -> Path:
    """train.parquet of n rows, cats and dogs by turns, with other columns; and test.parquet of 4."""
    kinds = labels(["cat", "dog"], [i % 2 for i in range(n)])
    parquet(folder / "train.parquet", [noise(i, size) for i in range(n)], label=kinds, **columns)
    tested = {
        name: (given[0], given[1][:4]) if isinstance(given, tuple) else given[:4]
        for name, given in columns.items()
    }
    kinds = labels(["cat", "dog"], [0, 1, 0, 1])
    parquet(folder / "test.parquet", [noise(100 + i, size) for i in range(4)], label=kinds, **tested)
    return folder


def class_folders(folder: Path, pictures: Mapping[str, Sequence[Image.Image]]) -> Path:
    """``{"train/cat": images}`` as files train/cat/000.png, train/cat/001.png, ..."""
    for place, images in pictures.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            image.save(folder / place / f"{i:03}.png")
    return folder
