"""What one model said about rows, as arrays, and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.special import log_softmax

from secateur.errors import DataError
from secateur.stats.scores import logit_confidence


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one model said about the rows of one view. The arrays are read-only.

    Attributes:
        logits: [n, classes], float32.
        labels: [n], the true classes, int64.
        rows: [n], stable row ids, int64.
        features: [n, d], penultimate activations, float32, where an audit asks for them.

    Raises:
        DataError: Shapes that do not fit, NaN or infinite logits, a label outside the classes, labels or rows
            that are no integers.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    features: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and is refused below
            object.__setattr__(self, "logits", frozen(self.logits, np.float32))
        object.__setattr__(self, "labels", integers(self.labels, "labels"))
        object.__setattr__(self, "rows", integers(self.rows, "rows"))
        if (
            self.logits.ndim != 2
            or self.labels.shape != (len(self.logits),)
            or self.rows.shape != self.labels.shape
        ):
            raise DataError(
                f"expected logits [n, classes], labels [n] and rows [n], got {self.logits.shape}, "
                f"{self.labels.shape} and {self.rows.shape}: an audit matches them row by row"
            )
        if self.features is not None:
            object.__setattr__(self, "features", frozen(self.features, np.float32))
            if self.features.ndim != 2 or len(self.features) != len(self.logits):
                raise DataError(
                    f"expected features [{len(self.logits)}, d], got {self.features.shape}: one vector a row"
                )
        if not np.isfinite(self.logits).all():
            bad = int((~np.isfinite(self.logits).all(axis=1)).sum())
            raise DataError(
                f"expected finite logits, got NaN or infinity in {bad} of {len(self.logits)} rows: nothing "
                "can be judged by them"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < self.classes:
            raise DataError(
                f"expected labels in 0..{self.classes - 1}, the width of the logits, got "
                f"{self.labels.min()}..{self.labels.max()}: number the classes from 0"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """The number of classes: the width of the logits."""
        return int(self.logits.shape[1])

    @cached_property
    def log_probs(self) -> NDArray[np.float64]:
        """[n, classes], natural log of the softmax, in double."""
        return np.asarray(log_softmax(self.logits.astype(np.float64), axis=1))

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """[n], the softmax probability of the true label."""
        return np.asarray(np.exp(self.log_probs[np.arange(len(self)), self.labels]))

    @cached_property
    def phi_by_row(self) -> NDArray[np.float64]:
        """[n], nats: log p_y - log sum_{c != y} p_c of each row, in the order of row ids."""
        at = np.argsort(self.rows)
        return frozen(logit_confidence(self.logits[at], self.labels[at]), np.float64)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """[n], whether the largest logit is the true label's."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels) if len(self) else np.zeros(0, dtype=bool)

    def without(self, classes: ArrayLike) -> Outputs:
        """The rows whose true label is not among ``classes``."""
        keep = ~np.isin(self.labels, classes)
        features = None if self.features is None else self.features[keep]
        if keep.all():
            return self
        return Outputs(self.logits[keep], self.labels[keep], self.rows[keep], features)


def pack_outputs(outputs: Mapping[str, Outputs]) -> bytes:
    """View name to outputs, as the bytes of a safetensors file (the same bytes for the same arrays)."""
    arrays = {
        f"{view}/{name}": np.ascontiguousarray(array)
        for view, out in outputs.items()
        for name, array in vars(out).items()
        if name in {"logits", "labels", "rows", "features"} and array is not None
    }
    packed: bytes = save(arrays, metadata={"secateur": json.dumps({"views": list(outputs)})})
    return packed


def load_outputs(path: Path) -> dict[str, Outputs]:
    """Read what ``pack_outputs`` wrote.

    Args:
        path: A safetensors file.

    Returns:
        View name to outputs.

    Raises:
        DataError: The file is missing, truncated, or holds something else.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            views = json.loads(file.metadata()["secateur"])["views"]
            keys = set(file.keys())
            names = ("logits", "labels", "rows", "features")
            stored = {v: {n: file.get_tensor(f"{v}/{n}") for n in names if f"{v}/{n}" in keys} for v in views}
            return {view: Outputs(**arrays) for view, arrays in stored.items()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'expected stored outputs in "{path}", got something unreadable ({error}): make them again'
        ) from error


def frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    """A read-only copy."""
    array = np.array(values, dtype=dtype)  # a copy: whoever holds the original could still write to it
    array.flags.writeable = False
    return array


def integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Integers [n], read-only.

    Args:
        values: [n].
        name: What they are, for the message.

    Returns:
        A copy.

    Raises:
        DataError: They are no integers.
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise DataError(
            f"expected {name} [n] as integers, got {array.dtype}: rounding them would judge other {name}"
        )
    return frozen(array, np.int64)
