"""Evidence: what models said about rows. Arrays, no models, so that judging is exact to test and cheap to repeat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.special import log_softmax

from secateur.errors import DataError

Kind = Literal["retrained", "shadow", "unlearned-shadow"]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one model said about the rows of one view. The arrays are read-only.

    Attributes:
        logits: [n, classes], float32.
        labels: [n], the true classes, int64.
        rows: [n], stable row ids, int64.
        features: [n, d], penultimate activations, float32, where an audit asks for them.

    Raises:
        DataError: Shapes that do not fit, NaN or infinite logits, a label outside the classes.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    features: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", _frozen(self.logits, np.float32))
        object.__setattr__(self, "labels", _frozen(self.labels, np.int64))
        object.__setattr__(self, "rows", _frozen(self.rows, np.int64))
        if self.logits.ndim != 2 or self.labels.shape != (len(self.logits),) or self.rows.shape != self.labels.shape:
            raise DataError(
                f"expected logits [n, classes], labels [n] and rows [n], got {self.logits.shape}, {self.labels.shape} "
                f"and {self.rows.shape}: an audit matches them row by row"
            )
        if self.features is not None:
            object.__setattr__(self, "features", _frozen(self.features, np.float32))
            if len(self.features) != len(self.logits):
                raise DataError(f"expected {len(self.logits)} rows of features, got {len(self.features)}")
        if not np.isfinite(self.logits).all():
            bad = int((~np.isfinite(self.logits).all(axis=1)).sum())
            raise DataError(f"expected finite logits, got NaN or infinity in {bad} of {len(self.logits)} rows: nothing can be judged by them")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < self.classes:
            raise DataError(
                f"expected labels in 0..{self.classes - 1}, one for each logit, got {self.labels.min()}..{self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """The number of classes: the width of the logits."""
        return self.logits.shape[1]

    @cached_property
    def log_probs(self) -> NDArray[np.float64]:
        """[n, classes], natural log of the softmax, in double."""
        return np.asarray(log_softmax(self.logits.astype(np.float64), axis=1))

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """[n], the softmax probability of the true label."""
        return np.asarray(np.exp(self.log_probs[np.arange(len(self)), self.labels]))

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """[n], whether the largest logit is the true label's."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels) if len(self) else np.zeros(0, dtype=bool)

    def without(self, classes: ArrayLike) -> Outputs:
        """The rows whose true label is not among ``classes``."""
        keep = ~np.isin(self.labels, classes)
        features = None if self.features is None else self.features[keep]
        return self if keep.all() else Outputs(self.logits[keep], self.labels[keep], self.rows[keep], features)


@dataclass(frozen=True, eq=False)
class Reference:
    """A model to compare with, as outputs.

    Attributes:
        kind: "retrained" (without the forget rows), "shadow" or "unlearned-shadow".
        outputs: View name to what the model said.
        rows: [n], the ids of the rows that it was trained on.
    """

    kind: Kind
    outputs: Mapping[str, Outputs]
    rows: NDArray[np.int64]

    @classmethod
    def retrained(cls, outputs: Mapping[str, Outputs], trained_on: Any) -> Reference:
        """A model retrained on retain.

        Args:
            outputs: What it said.
            trained_on: Anything with ``.rows``: row ids [n], or a mapping of role to row ids (a split), of which
                "retain" counts.

        Returns:
            The reference, of kind "retrained".
        """
        rows = trained_on.rows
        return cls("retrained", outputs, _frozen(rows["retain"] if isinstance(rows, Mapping) else rows, np.int64))


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that an audit may look at.

    Attributes:
        before: View name to what the model that unlearning started from said.
        after: View name to what the candidate, the unlearned model, said.
        references: Other models to compare with.
        measures: Scalars taken where models were at hand: sparsity, weight distances.

    Raises:
        DataError: The models were asked about different rows, or a reference "retrained" without the forget rows was
            trained on some of them.
    """

    before: Mapping[str, Outputs]
    after: Mapping[str, Outputs]
    references: Sequence[Reference] = ()
    measures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, outputs in self.models():
            for view in outputs.keys() & self.after.keys():
                if not np.array_equal(outputs[view].rows, self.after[view].rows):
                    raise DataError(f'expected all models to be asked about the same rows of "{view}", but those of {name} differ from the candidate\'s')
        for i, reference in enumerate(self.references):
            if reference.kind == "retrained" and "forget" in self.after:
                shared = np.intersect1d(reference.rows, self.after["forget"].rows)
                if len(shared):
                    raise DataError(
                        f"expected retrain[{i}] to have seen no forget row, but it was trained on {len(shared)} of them "
                        f"(the first: {shared[0]}): it is no reference for having forgotten"
                    )

    def models(self) -> Iterator[tuple[str, Mapping[str, Outputs]]]:
        """Name prefix and outputs of each model: "" the candidate, "before." and "retrain[0]." the controls."""
        yield "", self.after
        yield "before.", self.before
        for i, reference in enumerate(self.retrains):
            yield f"retrain[{i}].", reference.outputs

    @property
    def retrains(self) -> list[Reference]:
        """The references that were retrained without the forget rows."""
        return [reference for reference in self.references if reference.kind == "retrained"]

    @cached_property
    def forgotten(self) -> NDArray[np.int64]:
        """The classes without retain rows: they count as forgotten."""
        retain = self.after["retain"]
        return np.setdiff1d(np.arange(retain.classes), retain.labels)


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
            return {v: Outputs(**{n: file.get_tensor(f"{v}/{n}") for n in names if f"{v}/{n}" in keys}) for v in views}
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise DataError(f'expected stored outputs in "{path}", got something unreadable ({error}): make the evidence again') from error


def _frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.asarray(values, dtype=dtype).view()
    array.flags.writeable = False
    return array
