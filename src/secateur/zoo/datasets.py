"""Data sets. Each is a function of keyword knobs to a Collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import cleandoc
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import Field

from secateur.data import Augment, crop_flip
from secateur.knobs import Seed
from secateur.mapped import Memory
from secateur.maths.augment import CropFlip
from secateur.rows import stratified_order
from secateur.run import Progress
from secateur.zoo.decode import Source, read

Path = Annotated[
    str | None, Field(description="folder of parquet files or of images; none: from the Hugging Face hub")
]
Limit = Annotated[
    int | None,
    Field(ge=1, description="training rows to take, a stratified sample under data.seed; none: all"),
]
Augmented = Annotated[bool, Field(description="crop and flip training images as the data set declares")]
Constants = tuple[float, ...]
# what the split of sets whose test labels are not public is called
VALIDATION = ("validation", "valid", "val")


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A data set, before anyone asked to forget some of it.

    Attributes:
        train: ``(x, y)`` arrays, or a map-style data set.
        test: The same, from rows that no step sees; None without any.
        test_ids: [n], stable ids of the test rows, where they were taken from the training rows: so that no
            id means two rows; None: 0, 1, ... of a split of their own.
        augment: Of training batches.
        names: Of the classes, in order.
        ids: [n], stable ids of the training rows where they are a sample of more; None: 0, 1, ...
        columns: Name to values [n] of what else is known of the training rows: for requests by column.
        mean: Of each channel, for images in [0, 1]: what a network of the zoo subtracts.
        std: Of each channel: what it divides by.
    """

    train: Any
    test: Any
    augment: Augment | None = None
    names: tuple[str, ...] = ()
    ids: Any = None
    test_ids: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    mean: Constants = ()
    std: Constants = ()


def digits(*, noise: float = 0.0, test: float = 0.2) -> Collection:
    """Handwritten digits (1,797 images of 8 x 8, from the UCI repository by way of scikit-learn).

    Args:
        noise: Share of training labels that is replaced by another class, drawn once: rows that only memory
            can learn.
        test: Share of the rows that is kept for testing, stratified; its labels are never changed.

    Returns:
        Images [n, 1, 8, 8] as uint8 in 0..255, labels [n]; the column "mislabelled" says which are wrong.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = np.round(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = stratified_order(y, seed=0)
    held, rest = np.sort(order[: round(test * len(y))]), np.sort(order[round(test * len(y)) :])
    labels = y[rest].copy()
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(labels), round(noise * len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    names = tuple(str(digit) for digit in range(10))
    columns = {"mislabelled": labels != y[rest]}
    return Collection(
        train=(images[rest], labels), test=(images[held], y[held]), names=names, columns=columns
    )


class PublicSet(Protocol):
    """A public data set, as a function."""

    def __call__(
        self,
        *,
        path: Path = None,
        limit: Limit = None,
        augment: Augmented = True,
        memory: Memory = "auto",
        seed: Seed = 0,
        progress: Progress | None = None,
    ) -> Collection:
        """Its rows, decoded at the first call and read from the cache at the next.

        Args:
            path: Folder of parquet files or of images; None: from the Hugging Face hub.
            limit: Training rows to take, a stratified sample; None: all.
            augment: Crop and flip training images, as declared.
            memory: "mapped": decode images when they are drawn, instead of all of them once.
            seed: Of the sample.
            progress: Where to show how far decoding has come.

        Returns:
            Images [n, c, h, w] as uint8, labels [n].

        Raises:
            DataError: It cannot be had from there, or is not what it claims to be.
        """
        ...


def _public(
    name: str, told: str, source: Source, *, mean: Constants, std: Constants, crop: CropFlip
) -> PublicSet:
    """What is declared of a public data set, as the function that reads it."""

    def collect(
        *,
        path: Path = None,
        limit: Limit = None,
        augment: Augmented = True,
        memory: Memory = "auto",
        seed: Seed = 0,
        progress: Progress | None = None,
    ) -> Collection:
        chosen = crop if augment else None
        return _collection(replace(source, path=path), limit, memory, seed, progress, mean, std, chosen)

    collect.__name__ = collect.__qualname__ = name
    collect.__doc__ = f"{told}\n\n{cleandoc(PublicSet.__call__.__doc__ or '')}"
    return collect


_IMAGENET: Any = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
cifar10 = _public(
    "cifar10",
    "CIFAR-10: 60,000 colour images of 32 x 32 in 10 classes (Krizhevsky, 2009).",
    Source(hub="uoft-cs/cifar10", image="img", label="label", channels=3, classes=10, side=32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    crop=crop_flip(4),
)
cifar100 = _public(
    "cifar100",
    "CIFAR-100: 60,000 colour images of 32 x 32 in 100 classes (Krizhevsky, 2009).",
    Source(hub="uoft-cs/cifar100", image="img", label="fine_label", channels=3, classes=100, side=32),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    crop=crop_flip(4),
)
fashion_mnist = _public(
    "fashion_mnist",
    "Fashion-MNIST: 70,000 grey images of 28 x 28 in 10 classes (Xiao et al., 2017).",
    Source(
        hub="zalando-datasets/fashion_mnist", image="image", label="label", channels=1, classes=10, side=28
    ),
    mean=(0.2860,),
    std=(0.3530,),
    crop=crop_flip(2),
)
svhn = _public(
    "svhn",
    "SVHN, cropped digits: 99,289 colour images of 32 x 32 in 10 classes (Netzer et al., 2011).\n\n"
    "Cropped but never flipped: a mirrored digit is another digit, or none.",
    Source(
        hub="ufldl-stanford/svhn",
        config="cropped_digits",
        image="image",
        label="label",
        channels=3,
        classes=10,
        side=32,
    ),
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    crop=crop_flip(4, flip=False),
)
tiny_imagenet = _public(
    "tiny_imagenet",
    "Tiny ImageNet: 110,000 colour images of 64 x 64 in 200 classes (Le and Yang, 2015).\n\n"
    "Tested on its validation split: the labels of the other are not public.",
    Source(
        hub="zh-plus/tiny-imagenet",
        image="image",
        label="label",
        channels=3,
        classes=200,
        side=64,
        test=VALIDATION,
    ),
    crop=crop_flip(4),
    **_IMAGENET,
)
imagenet = _public(
    "imagenet",
    "ImageNet-1k: 1,331,167 colour images in 1,000 classes (Russakovsky et al., 2015), here 224 x 224.\n\n"
    "Short side resized, centre cropped, and then cropped after padding: not the random resized crop of\n"
    "published recipes. Decoded rows are 150 kB each: above half of the machine's memory they stay on disk,\n"
    "and are decoded when they are drawn. Tested on the validation split.",
    Source(
        hub="ILSVRC/imagenet-1k",
        image="image",
        label="label",
        channels=3,
        size=224,
        classes=1000,
        test=VALIDATION,
    ),
    crop=crop_flip(28),
    **_IMAGENET,
)


def images(
    *,
    path: str,
    image: str | None = None,
    label: str | None = None,
    size: Annotated[int, Field(ge=1, le=1024)] | None = None,
    test: Annotated[float, Field(gt=0, lt=1)] | None = None,
    crop: Annotated[int, Field(ge=0, le=128)] = 0,
    flip: bool = False,
    mean: Constants = (),
    std: Constants = (),
    limit: Limit = None,
    memory: Memory = "auto",
    seed: Seed = 0,
    progress: Progress | None = None,
) -> Collection:
    """Images of your own: a folder of parquet files, or one folder of images for each class.

    Args:
        path: The folder. Splits are told by names: train.parquet and test.parquet, train/cat/1.png ...
        image: Column of the images; None: the only one of images.
        label: Column of the classes; None: the only one that could be it.
        size: Side in pixels that all are brought to; None: they are of one size.
        test: Share of the rows to test on, stratified, where the folder has no split to test on; these are
            taken first, and ``limit`` counts the others.
        crop: Pixels of padding before the random crop of training images; 0: no crop.
        flip: Mirror half of the training images.
        mean: Of each channel, for images in [0, 1]; none: 0.5.
        std: Of each channel; none: 0.5.
        limit: Training rows to take, a stratified sample; None: all.
        memory: "mapped": decode images when they are drawn, instead of all of them once.
        seed: Of the sample.
        progress: Where to show how far decoding has come.

    Returns:
        Images [n, c, h, w] as uint8, labels [n].

    Raises:
        DataError: The folder is no data set of labelled images, or its columns, sizes or splits are unclear.
    """
    source = Source(path=path, image=image, label=label, size=size, share=test)
    chosen = crop_flip(crop, flip=flip) if crop or flip else None
    return _collection(source, limit, memory, seed, progress, mean, std, chosen)


def _collection(
    source: Source,
    limit: int | None,
    memory: Memory,
    seed: int,
    progress: Progress | None,
    mean: Constants,
    std: Constants,
    augment: Augment | None,
) -> Collection:
    found = read(source, limit=limit, seed=seed, progress=progress, memory=memory)
    train, test = found["train"], found["test"]
    return Collection(
        train=(train.x, train.y),
        test=(test.x, test.y),
        augment=augment,
        names=train.names,
        ids=train.ids,
        test_ids=test.ids if source.share is not None else None,
        columns=train.columns,
        mean=mean,
        std=std,
    )
