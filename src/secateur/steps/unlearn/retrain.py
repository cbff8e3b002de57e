"""Exact unlearning: train again, without the forget rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from secateur.card import Card
from secateur.data import Role
from secateur.knobs import Sam, Smoothing
from secateur.optimize import Plainly, cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Retrain(Recipe):
    """Train a newly initialised model on retain; its weights do not depend on the forget rows in any bit.

    A kept mask may: it was chosen by weights that saw them (``masks_saw`` in the trace says so).

    Attributes:
        mask: "keep" trains under the pruning masks, as the paper does; "dense" drops them.
        smoothing: Label smoothing of the cross-entropy, in [0, 1); the paper's variant of Retrain has 0.1.
        sam: Radius rho of adaptive sharpness-aware minimisation (Kwon et al., ICML 2021), at two passes per
            update; 0: off. The paper's variant of Retrain has 2.
    """

    card: ClassVar[Card] = Card(
        summary="Trains anew on the retained rows: exact, and the yardstick for the others.",
        paper="Bourtoule et al., Machine Unlearning, IEEE S&P 2021 (exact unlearning by retraining)",
        data="retain",
        anew=True,
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    mask: Literal["keep", "dense"] = "keep"
    smoothing: Smoothing = 0.0
    sam: Sam = 0.0

    @property
    def plainly(self) -> Plainly | None:
        """What this training comes to, where it keeps its masks, is not sharpness-aware and clips nothing."""
        if self.mask != "keep" or self.sam or self.clip is not None:
            return None
        return Plainly(
            role="retain", epochs=self.epochs, batch=self.batch, sgd=self.sgd(), smoothing=self.smoothing
        )

    def __call__(self, state: State, run: Run, /) -> State:
        """Train the fresh model that the driver hands to a step that starts anew."""
        if self.mask == "dense":
            state = replace(state, masks={}, masks_saw=frozenset())
        loader = state.retain.loader(epochs=self.epochs, batch=self.batch, rng=run.rng("order"))
        loss = partial(cross_entropy, smoothing=self.smoothing)
        sgd = replace(self.sgd(), sharpness=self.sam)
        return optimize(state, loader, loss, optimizer=sgd, clip=self.clip, run=run)
