"""Images from the Hugging Face hub or from a folder, decoded once to bytes and kept in a cache."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError
from secateur.mapped import Memory
from secateur.mapped import limit as mapped_above
from secateur.rows import stratified_order
from secateur.run import Progress, Silent
from secateur.zoo import cache
from secateur.zoo.columns import find, labels_of, plain
from secateur.zoo.pixels import Pictures, channels_of

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set lies and what its columns are called.

    Attributes:
        hub: Its name on the Hugging Face hub; empty: only a folder will do, and its columns are the user's.
        config: The hub's configuration of it, where there are several.
        path: A folder in place of the hub: of parquet files, or of images in one folder for each class.
        train: Name of the split to train on.
        test: Names that the split to test on may have.
        share: Share of the training rows to test on, stratified, where there is no such split.
        image: Column of the images; None: the only one of images.
        label: Column of the classes; None: the only one that could be it.
        channels: 1 or 3; None: as the first image has them.
        size: Side in pixels that images are brought to (short side resized, centre cropped); None: all images
            must be of one size already.
        classes: How many it must have; None: any number.
        side: What its images must measure, in pixels; None: anything.
    """

    hub: str = ""
    config: str | None = None
    path: str | None = None
    train: str = "train"
    test: tuple[str, ...] = ("test", "validation", "valid", "val")
    share: float | None = None
    image: str | None = None
    label: str | None = None
    channels: int | None = None
    size: int | None = None
    classes: int | None = None
    side: int | None = None


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images, and what is known of them.

    Attributes:
        x: [n, channels, h, w], uint8; as ``Pictures`` where they are to be decoded when they are drawn.
        y: [n], classes.
        ids: [n], positions in the split that they come from.
        columns: Name to values [n] of every other column of numbers, words or truth values; of training rows.
        names: Of the classes, in order.
    """

    x: Array | Pictures
    y: Array
    ids: Array
    columns: Mapping[str, Array]
    names: tuple[str, ...]


def read(
    source: Source,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    memory: Memory = "auto",
) -> dict[str, Images]:
    """Train and test rows of a source: decoded at the first call, read from the cache at the next.

    Where they are mapped nothing is decoded and nothing is cached but what ``datasets`` writes of a folder: a
    copy in its own form, unless the folder is one that ``save_to_disk`` wrote.

    Args:
        source: Where they lie.
        limit: How many training rows to take: a stratified sample. None: all.
        seed: Of that sample.
        progress: Where to show how far decoding has come.
        memory: "mapped": leave images undecoded until they are drawn; "auto": so where all of them are more
            than ``mapped.limit()`` bytes and are not in the cache yet.

    Returns:
        "train" and "test".

    Raises:
        DataError: The folder or the hub has no such data set, a column cannot be told, or images do not fit.
    """
    key = {
        "source": _fingerprint(source),
        "limit": limit,
        "seed": seed if limit is not None else None,
    }
    found = None if memory == "mapped" else cache.load(key)
    if found is None and memory != "mapped":
        with tempfile.TemporaryDirectory() as scratch, _quiet():
            described = _described(source, _loaded(source, scratch), limit, seed)
            if memory == "in-memory" or _bytes(described) <= mapped_above():
                found = _decoded(described, progress or Silent())
                cache.save(key, found)
    if found is None:
        with _quiet():
            found = _described(source, _loaded(source, str(cache.folder() / "arrow")), limit, seed)
    return {
        part: Images(
            x=found[f"{part}/x"],
            y=found[f"{part}/y"],
            ids=found[f"{part}/ids"],
            columns={
                name.removeprefix(f"{part}/columns/"): value
                for name, value in found.items()
                if name.startswith(f"{part}/columns/")
            },
            names=tuple(found["names"]),
        )
        for part in ("train", "test")
    }


def _fingerprint(source: Source) -> dict[str, Any]:
    """What decides the decoded bytes: all of the source, and every file of a folder."""
    told = {name: getattr(source, name) for name in source.__dataclass_fields__ if name != "path"}
    if source.path is None:
        return told
    folder = _folder(source.path).resolve()
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return told | {
        "folder": str(folder),
        # copying and unpacking can set back the time of the last change, but not that of the inode
        "files": [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats],
    }


def _folder(path: str) -> Path:
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir():
        raise DataError(
            f'expected data.path to be a folder, got "{path}", which is none: name the folder that holds '
            "the parquet files, or one folder of images for each class"
        )
    return folder


def _loaded(source: Source, scratch: str) -> Mapping[str, Any]:
    import datasets  # a second to import: only where something must be decoded

    splits: Mapping[str, Any]
    try:
        if source.path is None:
            again = datasets.DownloadConfig(max_retries=1)
            splits = datasets.load_dataset(source.hub, source.config, download_config=again)
        else:
            folder = str(_folder(source.path).resolve())  # what has one slash could be a name on the hub
            if Path(folder, "dataset_dict.json").exists():  # as save_to_disk writes: mapped without a copy
                return dict(datasets.load_from_disk(folder))
            known = datasets.get_dataset_config_names(folder) if source.config else []
            config = source.config if source.config in known else None
            splits = datasets.load_dataset(folder, config, cache_dir=scratch)
    except Exception as error:  # a reader for each format, and each raises what it likes
        words = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        if source.path is None:
            raise DataError(
                f'expected to read "{source.hub}" from the Hugging Face hub, and it cannot be had here '
                f"({words}): get a copy of it, and name its folder as data.path"
            ) from error
        raise DataError(
            f'expected data.path = "{source.path}" to be a data set, got a folder that cannot be read as one '
            f"({words}): put parquet files there, or images in one folder for each class"
        ) from error
    return splits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and the log of ``datasets``: what went wrong is told in one sentence."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            datasets.enable_progress_bars()


def _bytes(described: Mapping[str, Any]) -> int:
    return sum(math.prod(value.shape) for value in described.values() if isinstance(value, Pictures))


def _decoded(described: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    return {
        name: value.decoded(progress) if isinstance(value, Pictures) else value
        for name, value in described.items()
    }


def _described(source: Source, splits: Mapping[str, Any], limit: int | None, seed: int) -> dict[str, Any]:
    """All that is known of the rows of a source; its images are not decoded yet."""
    import datasets

    if source.train not in splits:
        raise DataError(
            f'expected a split called "{source.train}" to train on, got {", ".join(splits)}: rename the '
            "folder or the files"
        )
    train = splits[source.train]
    # a folder of images knows no names of columns; any other that has other names is another set
    nameless = bool(source.hub) and {*train.features} == {"image", "label"}
    wanted = {source.image, source.label} - {None, *train.features}
    if source.hub and wanted and not nameless:
        raise DataError(
            f'expected the columns of "{source.hub}", {source.image} and {source.label}, got '
            f'{", ".join(train.features)}: this is another set; name it, or take use = "images"'
        )
    image, label = find(train.features, image=source.image, label=source.label, strict=not nameless)
    test = _tested(source, splits)
    labels, names = labels_of(train, label, "train")
    if source.classes not in (None, len(names)):
        raise DataError(
            f'expected the {source.classes} classes of "{source.hub}", got {len(names)} in the column '
            f'"{label}": this is another set; name it, or take use = "images"'
        )
    ids = np.arange(len(labels))
    if test is None:
        ids, test_ids = _shared(labels, source.share or 0.0)
        test, test_labels = train, labels
    else:
        test_labels, _ = labels_of(test, label, "test", among=names)
        test_ids = np.arange(len(test_labels))
    if limit is not None:
        if limit > len(ids):
            raise DataError(
                f"expected data.limit of at most {len(ids)}, the training rows that there are, got {limit}: "
                "take less, or leave it out"
            )
        ids = _sample(labels, ids, limit, seed)
    raw = {
        part: rows.cast_column(image, datasets.Image(decode=False)).select_columns([image])
        for part, rows in (("train", train), ("test", test))
    }
    # the first of all rows, not of a sample: a limit must not change what a row looks like
    channels = source.channels or channels_of(raw["train"][:1][image][0], 0, "train")
    found: dict[str, Any] = {"names": names}
    for part, y, at in (("train", labels, ids), ("test", test_labels, test_ids)):
        found |= {f"{part}/y": y[at], f"{part}/ids": at}
        found[f"{part}/x"] = Pictures(
            raw[part].select(at),
            at,
            part,
            channels=channels,
            exact=source.channels is None,
            size=source.size,
        )
    shape, other = found["train/x"].shape[1:], found["test/x"].shape[1:]
    if source.side is not None and shape[1:] != (source.side, source.side):
        raise DataError(
            f'expected the images of "{source.hub}", {source.side} x {source.side}, got {shape[2]} x '
            f'{shape[1]}: this is another set; name it, or take use = "images"'
        )
    if other != shape:
        raise DataError(
            f"expected test images of {shape[2]} x {shape[1]}, as the training images are, got {other[2]} x "
            f'{other[1]}: bring them to one size, as data.size of use = "images" does'
        )
    for name in (name for name in train.features if name not in (image, label)):
        if (values := plain(train.select(ids), name)) is not None:
            found[f"train/columns/{name}"] = values
    return found


def _sample(labels: Array, ids: Array, limit: int, seed: int) -> Array:
    """A stratified sample with a row of every class: one without rows would count as forgotten."""
    order = stratified_order(labels[ids], seed=seed)
    _, first = np.unique(labels[ids][order], return_index=True)
    if limit <= first.max():
        raise DataError(
            f"expected data.limit to leave a row of each of {len(first)} classes, got {limit}: take at least "
            f"{first.max() + 1}"
        )
    return np.asarray(ids[np.sort(order[:limit])])


def _tested(source: Source, splits: Mapping[str, Any]) -> Any:
    """The split to test on; None where a share of the training rows is taken instead."""
    tested = [name for name in source.test if name in splits]
    if not tested and source.share is None:
        raise DataError(
            f'expected a split to test on beside "{source.train}", called {" or ".join(source.test)}, and '
            "there is none: add it to the folder"
            + ("" if source.hub else ", or say which share of the training rows to take, data.test = 0.2")
        )
    if tested and source.share is not None:
        raise DataError(
            f"expected no share to test on, got data.test = {source.share}: the folder has a split for it, "
            f'"{tested[0]}"; leave the share out'
        )
    return splits[tested[0]] if tested else None


def _shared(labels: Array, share: float) -> tuple[Array, Array]:
    """The rows to train on and to test on, where there is one split for both."""
    order = stratified_order(labels, seed=0)  # fixed: who is tested on does not move with a seed
    count = round(share * len(order))
    if not 0 < count < len(order):
        raise DataError(
            f"expected rows to train on and rows to test on, got {len(order) - count} and {count} by "
            f"data.test = {share}: take another share"
        )
    return np.sort(order[count:]), np.sort(order[:count])
