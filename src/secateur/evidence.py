"""Evidence: what models said about rows. Arrays, no models: exact to test, and cheap to judge again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from secateur import stats
from secateur.errors import DataError
from secateur.outputs import Outputs, integers
from secateur.stats import Interval

Kind = Literal["retrained", "original", "unlearned", "shadow", "unlearned-shadow"]
Found = TypeVar("Found")
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Reference:
    """A model to compare with, as outputs.

    Attributes:
        kind: "retrained", without this request's forget rows; "original", another training with them;
            "unlearned", such a model after the candidate's unlearning; "shadow", trained on a random half of
            the pool; "unlearned-shadow", a shadow after unlearning rows of its own.
        outputs: View name to what the model said.
        rows: [n], the ids of the rows that it was trained on.
        forgot: [m], the ids of the rows that an "unlearned-shadow" then unlearned, some of ``rows``.

    Raises:
        DataError: No such kind, ids that are no integers, or rows forgotten that were never trained on.
    """

    kind: Kind
    outputs: Mapping[str, Outputs]
    rows: NDArray[np.int64]
    forgot: NDArray[np.int64] = field(default_factory=_NONE.copy)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(
                f"expected a reference of kind {get_args(Kind)}, got {self.kind!r}: audits go by it"
            )
        for name in ("rows", "forgot"):
            object.__setattr__(self, name, integers(getattr(self, name), name))
        strange = np.setdiff1d(self.forgot, self.rows)
        if len(strange):
            raise DataError(
                f"expected a reference to forget rows that it was trained on, got {len(strange)} others (the "
                f"first: {strange[0]}): nothing could be told by them"
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
        return cls("retrained", outputs, integers(rows, "rows"))


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
        for name, outputs in self.everyone():
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
        if {"forget", "retain"} <= self.after.keys():
            both = np.intersect1d(self.after["forget"].rows, self.after["retain"].rows)
            if len(both):
                raise DataError(
                    f"expected forget and retain to share no row, but {len(both)} are in both (the first: "
                    f"{both[0]}): what is retained cannot be forgotten; make the split again"
                )
        if {"retain", "test"} <= self.before.keys():
            known = _answers(self.before["retain"])
            again = _answers(self.before["test"]) & known
            # a model that says one thing of everything repeats itself on any rows
            varied = len(known) > 9 and 2 * len(known) > len(self.before["retain"])
            if varied and 2 * len(again) > len(self.before["test"]):
                raise DataError(
                    f"expected test rows that no model was trained on, but of {len(again)} of "
                    f"{len(self.before['test'])} the original says exactly what it says of a retained row: "
                    "beside trained rows a model that forgot nothing looks perfect; give other test rows"
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

    def everyone(self) -> Iterator[tuple[str, Mapping[str, Outputs]]]:
        """As ``models``, and the references of every other kind: "shadow[0]." and so on."""
        yield from self.models()
        for kind in get_args(Kind)[1:]:
            for i, reference in enumerate(self.of(kind)):
                yield f"{kind}[{i}].", reference.outputs

    def of(self, kind: Kind) -> list[Reference]:
        """The references of a kind, in order."""
        return [reference for reference in self.references if reference.kind == kind]

    @property
    def retrains(self) -> list[Reference]:
        """The references that were retrained without the forget rows."""
        return self.of("retrained")

    def about(self, after: Mapping[str, Outputs], references: Sequence[Reference]) -> Evidence:
        """The same question about another candidate, beside other references."""
        return replace(self, after=after, references=references)

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
        """MIA-Efficacy of one model; kept, since the predictor may take seconds.

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
        """MIA-Privacy of one model; kept, since the predictor may take seconds.

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


def _answers(view: Outputs) -> set[bytes]:
    """What was said, each different answer once."""
    return {row.tobytes() for row in view.logits}


def _by_row(view: Outputs) -> NDArray[np.float64]:
    """Confidences [n] by row id, so that neither a sample nor a fit depends on the order of observation."""
    return view.confidence[np.argsort(view.rows)]
