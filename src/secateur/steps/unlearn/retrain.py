"""Exact unlearning: train again, without the forget rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from secateur.card import Card
from secateur.data import Role
from secateur.optimize import cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Retrain(Recipe):
    """Train a newly initialised model on retain; its weights do not depend on the forget rows in any bit.

    A kept mask may: it was chosen by weights that saw them (``masks_saw`` in the trace says so).

    Attributes:
        mask: "keep" trains under the pruning masks, as the paper does; "dense" drops them.
    """

    card: ClassVar[Card] = Card(
        summary="Trains anew on the retained rows: exact, and the yardstick for the others.",
        paper="Bourtoule et al., Machine Unlearning, IEEE S&P 2021 (exact unlearning by retraining)",
        data="retain",
        anew=True,
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    mask: Literal["keep", "dense"] = "keep"

    def __call__(self, state: State, run: Run, /) -> State:
        """Train the fresh model that the driver hands to a step that starts anew."""
        if self.mask == "dense":
            state = replace(state, masks={}, masks_saw=frozenset())
        loader = state.retain.loader(epochs=self.epochs, batch=self.batch, rng=run.rng("order"))
        return optimize(state, loader, cross_entropy, optimizer=self.sgd(), clip=self.clip, run=run)
