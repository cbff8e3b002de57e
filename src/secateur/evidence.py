"""Evidence: what models said about rows. Arrays, no models: exact to test, and cheap to judge again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.special import log_softmax

from secateur import stats
from secateur.errors import DataError
from secateur.stats import Interval

Kind = Literal["retrained", "shadow", "unlearned-shadow"]
Found = TypeVar("Found")


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
            object.__setattr__(self, "logits", _frozen(self.logits, np.float32))
        object.__setattr__(self, "labels", _integers(self.labels, "labels"))
        object.__setattr__(self, "rows", _integers(self.rows, "rows"))
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
            object.__setattr__(self, "features", _frozen(self.features, np.float32))
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

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(
                f"expected a reference of kind {get_args(Kind)}, got {self.kind!r}: audits go by it"
            )

    @classmethod
    def retrained(cls, outputs: Mapping[str, Outputs], trained_on: Any) -> Reference:
        """A model retrained on retain.

        Args:
            outputs: What it said.
            trained_on: Anything with ``.rows``: row ids [n], or a mapping of role to row ids (a split), of
                which "retain" counts.

        Returns:
            The reference, of kind "retrained".
        """
        rows = trained_on.rows["retain"] if isinstance(trained_on.rows, Mapping) else trained_on.rows
        return cls("retrained", outputs, _integers(rows, "rows"))


# what the predictor found, by the outputs that it rests on, as long as they live: a grid asks about the same
# models often
_PREDICTED: WeakKeyDictionary[Outputs, dict[tuple[Any, ...], tuple[tuple[Outputs, ...], Any]]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that an audit may look at.

    Attributes:
        before: View name to what the model that unlearning started from said.
        after: View name to what the candidate, the unlearned model, said.
        references: Other models to compare with.
        measures: Scalars taken where models were at hand: sparsity, weight distances.

    Raises:
        DataError: The models were asked about different rows, labels or classes, or a reference "retrained"
            without the forget rows was trained on some of them.
    """

    before: Mapping[str, Outputs]
    after: Mapping[str, Outputs]
    references: Sequence[Reference] = ()
    measures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, outputs in self.models():
            for view in outputs.keys() & self.after.keys():
                theirs, ours = outputs[view], self.after[view]
                same = {
                    "rows": np.array_equal(theirs.rows, ours.rows),
                    "labels": np.array_equal(theirs.labels, ours.labels),
                    "classes": theirs.classes == ours.classes,
                }
                for what in (what for what, equal in same.items() if not equal):
                    raise DataError(
                        f'expected all models to be asked about the same rows of "{view}", but the {what} of '
                        f"{name.rstrip('.')} differ from the candidate's: observe all of them on one split"
                    )
        for i, reference in enumerate(self.retrains):
            if "forget" in self.after:
                shared = np.intersect1d(reference.rows, self.after["forget"].rows)
                if len(shared):
                    raise DataError(
                        f"expected retrain[{i}] to have seen no forget row, but it was trained on "
                        f"{len(shared)} of them (the first: {shared[0]}): it is no reference for forgetting"
                    )

    def models(self) -> Iterator[tuple[str, Mapping[str, Outputs]]]:
        """Name prefix and outputs of each model: "" the candidate, "before." and "retrain[0]." controls."""
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

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """A caveat for what ``hits`` and both attacks leave out of test; empty where that is nothing."""
        test = self.after["test"]
        gone = np.intersect1d(self.forgotten, test.labels)
        if not len(gone):
            return ()
        count, names = int(np.isin(test.labels, gone).sum()), ", ".join(map(str, gone))
        who = f"class {names} counts" if len(gone) == 1 else f"classes {names} count"
        return (f"{who} as forgotten, having no retain rows: {count} of {len(test)} test rows are left out",)

    def hits(self, outputs: Mapping[str, Outputs]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """UA, RA and TA of one model, row by row: the metric is the mean of its hits.

        Args:
            outputs: What one model of this evidence said of forget, retain and test.

        Returns:
            "UA", "RA" and "TA", each with the true labels [n] and whether the row counts [n]: a wrong answer
            on forget, a right one on retain and on test. Forgotten classes are left out of test.
        """
        forget, retain, test = outputs["forget"], outputs["retain"], self._test(outputs)
        return {
            "UA": (forget.labels, ~forget.correct),
            "RA": (retain.labels, retain.correct),
            "TA": (test.labels, test.correct),
        }

    def mia_efficacy(
        self, outputs: Mapping[str, Outputs], *, members: Literal["sampled", "first"], seed: int
    ) -> float:
        """MIA-Efficacy of one model; kept, since the predictor takes seconds on a big test set.

        Args:
            outputs: What one model of this evidence said of forget, retain and test.
            members: As in ``stats.mia_efficacy``: the same rows for every model.
            seed: Seed of the sample.

        Returns:
            The share of forget rows called non-members, in [0, 1]. Forgotten classes are left out of test.
        """
        retain, test, forget = outputs["retain"], outputs["test"], outputs["forget"]

        def predict() -> float:
            retained, tested, forgotten = map(_by_row, (retain, self._test(outputs), forget))
            return stats.mia_efficacy(retained, tested, forgotten, members=members, seed=seed)

        return self._kept((forget, retain, test), (members, seed), predict)

    def mia_privacy(self, outputs: Mapping[str, Outputs], *, seed: int, level: float) -> Interval:
        """MIA-Privacy of one model; kept, since the predictor takes seconds on a big test set.

        Args:
            outputs: What one model of this evidence said of retain and test.
            seed: Seed of the rows drawn and of the halves: the same for every model.
            level: Confidence level, in (0, 1).

        Returns:
            As ``stats.mia_privacy``. Forgotten classes are left out of test.
        """
        retain, test = outputs["retain"], outputs["test"]

        def predict() -> Interval:
            retained, tested = _by_row(retain), _by_row(self._test(outputs))
            return stats.mia_privacy(retained, tested, seed=seed, level=level)

        return self._kept((retain, test), (seed, level), predict)

    def _kept(
        self, views: tuple[Outputs, ...], knobs: tuple[Any, ...], predict: Callable[[], Found]
    ) -> Found:
        """What was predicted for these views before, or is now."""
        kept = _PREDICTED.setdefault(views[0], {})
        key = (*knobs, len(views), self.forgotten.tobytes())
        others = views[1:]  # the first is the weak key: held here, it would live for ever
        if key not in kept or any(a is not b for a, b in zip(kept[key][0], others, strict=True)):
            kept[key] = others, predict()
        found: Found = kept[key][1]
        return found

    def _test(self, outputs: Mapping[str, Outputs]) -> Outputs:
        test = outputs["test"].without(self.forgotten)
        if not len(test):
            raise DataError(
                "expected test rows of a retained class, got none: TA and the membership attacks leave "
                "forgotten classes out; give the split test rows of the others"
            )
        return test


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


def _by_row(view: Outputs) -> NDArray[np.float64]:
    """Confidences [n] by row id, so that neither a sample nor a fit depends on the order of observation."""
    return view.confidence[np.argsort(view.rows)]


def _frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.array(values, dtype=dtype)  # a copy: whoever holds the original could still write to it
    array.flags.writeable = False
    return array


def _integers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise DataError(
            f"expected {name} [n] as integers, got {array.dtype}: rounding them would judge other {name}"
        )
    return _frozen(array, np.int64)
