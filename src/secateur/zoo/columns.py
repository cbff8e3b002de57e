"""Columns of a data set: which one holds the images, which one the classes, what else is known of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.errors import DataError, nearest

Array = NDArray[Any]
# what a column of integers may hold to number classes: above, it is an identifier
MOST_CLASSES = 2**16
# characters of a word that rows can be told by: above, it is a text
LONGEST = 256


def find(
    features: Mapping[str, Any], *, image: str | None, label: str | None, strict: bool
) -> tuple[str, str]:
    """The names of the image and the label column.

    Args:
        features: Name to kind of column, as ``datasets`` tells it.
        image: What the first is called; None: it is the only one of images.
        label: What the second is called; None: it is the only one that could be it.
        strict: Refuse a name that is not there, instead of taking the only column that could be meant: a
            folder of images knows no names of columns.

    Returns:
        Both names.

    Raises:
        DataError: One of them cannot be told, or holds something else.
    """
    kinds = {name: _kind(kind) for name, kind in features.items()}
    images = [name for name, kind in kinds.items() if kind == "image"]
    classes = [name for name, kind in kinds.items() if kind == "class"]
    plain = [name for name, kind in kinds.items() if kind in ("int", "string")]
    image = _one("image", image, images, list(kinds), "images", strict)
    label = _one("label", label, classes or plain, list(kinds), "classes", strict)
    if kinds[image] not in ("image", "binary"):
        raise DataError(
            f'expected images in the column "{image}", got {_words(features[image])}: name another as '
            "data.image"
        )
    if label not in classes + plain:
        raise DataError(
            f'expected whole numbers or words in the column "{label}", got {_words(features[label])}: a '
            "label names a class; name another as data.label"
        )
    return image, label


def _one(knob: str, asked: str | None, fitting: list[str], there: list[str], what: str, strict: bool) -> str:
    if asked in there:
        return str(asked)
    if asked is not None and (strict or len(fitting) != 1):
        raise DataError(f'expected a column "{asked}" of {what}: none is called so, {nearest(asked, there)}')
    if not fitting:
        raise DataError(
            f"expected a column of {what}, got the columns {', '.join(there)}, none of which could be it: "
            "this is no set of labelled images; name another folder"
        )
    if len(fitting) > 1:
        raise DataError(
            f"expected one column that could be the {knob}, got {' and '.join(fitting)}: name the one that "
            f'you mean, data.{knob} = "{fitting[0]}"'
        )
    return fitting[0]


def _kind(feature: Any) -> str:
    """One of "image", "class", "int", "string", "bool" and "binary"; "" for anything else."""
    import datasets

    # a file that does not say that a column is of images still has the shape of one
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and {*feature} == {"bytes", "path"}):
        return "image"
    if isinstance(feature, datasets.ClassLabel):
        return "class"
    words = _words(feature).removeprefix("large_").removeprefix("u")
    known = ("int", "string", "bool", "binary") if isinstance(feature, datasets.Value) else ()
    return next((name for name in known if words.startswith(name)), "")


def _words(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _values(rows: Any, column: str) -> Any:
    """A column as arrow holds it."""
    return rows.select_columns([column]).with_format("arrow")[:][column]


def labels_of(
    rows: Any, column: str, part: str, *, among: Sequence[str] | None = None
) -> tuple[Array, list[str]]:
    """Labels of all rows of a split.

    Args:
        rows: The split, as ``datasets`` reads it.
        column: The name of the label column.
        part: The name of the split, for messages.
        among: Names of the classes where another split has decided them; None: this one does.

    Returns:
        Labels [n] as 0, 1, ..., and the names of the classes.

    Raises:
        DataError: There are no rows, rows without a label, or classes of which ``among`` knows nothing.
    """
    kind, held = _kind(rows.features[column]), _values(rows, column)
    if not len(held):
        raise DataError(f'expected images in the split "{part}", got none: nothing can be learned from it')
    values = held.to_numpy()
    if without := held.null_count or (kind == "class" and int((values < 0).sum())):
        raise DataError(
            f'expected a class for each row of the split "{part}", got {without} without one in "{column}": '
            "take out the rows that are not labelled, or the whole split"
        )
    names: list[str]
    if kind == "string":
        words, labels = np.unique(values.astype(str), return_inverse=True)
        names = [str(word) for word in words]
    else:
        labels = values.astype(np.int64)
        names = list(rows.features[column].names) if kind == "class" else []
        if labels.max() >= (most := len(names) or MOST_CLASSES):
            raise DataError(
                f'expected classes 0..{most - 1} in the column "{column}", got {labels.max()}: that is no '
                "number of a class; name another column as data.label"
            )
        names = names or [str(c) for c in range(labels.max() + 1)]
    if among is None:
        return labels, names
    if absent := [name for name in names if name not in among]:
        raise DataError(
            f'expected the classes of "{column}" to be the same in both splits, got "{absent[0]}" in '
            f'"{part}", which no training row has: a label must mean one class'
        )
    place = np.array([among.index(name) for name in names])
    return place[labels] if labels.min() >= 0 else labels, list(among)


def plain(rows: Any, column: str) -> Array | None:
    """A column by which rows can be told.

    Args:
        rows: A split, as ``datasets`` reads it.
        column: The name of a column.

    Returns:
        [n], integers, words (of class labels: the names; "" where there is none) or truth values; None where
        the column holds anything else, long texts, or rows without a number.
    """
    kind, held = _kind(rows.features[column]), _values(rows, column)
    if kind in ("class", "string"):
        if kind == "class":
            names = [*rows.features[column].names, ""]
            words = [names[c] for c in held.fill_null(-1).to_pylist()]
        else:
            words = held.fill_null("").to_pylist()
        return np.array(words) if max(map(len, words), default=0) <= LONGEST else None
    return np.array(held.to_numpy()) if kind in ("int", "bool") and not held.null_count else None
