"""Fine-tuning: go on training on retain, and let the rest be forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.card import Card
from secateur.data import Role
from secateur.knobs import Epochs, Lr, Schedule
from secateur.optimize import cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class FineTune(Recipe):
    """Minimise cross-entropy on retain, from the weights as they are."""

    card: ClassVar[Card] = Card(
        summary="Goes on training on the retained rows only.",
        paper="Warnecke et al., Machine Unlearning of Features and Labels, NDSS 2023; Golatkar "
        "et al., CVPR 2020",
        data="retain",
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    epochs: Epochs = 10
    lr: Lr = 0.01
    schedule: Schedule = "constant"

    def __call__(self, state: State, run: Run, /) -> State:
        """Train on retain."""
        loader = state.retain.loader(epochs=self.epochs, batch=self.batch, rng=run.rng("order"))
        return optimize(state, loader, cross_entropy, optimizer=self.sgd(), clip=self.clip, run=run)
