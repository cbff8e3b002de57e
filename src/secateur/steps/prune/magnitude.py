"""One-shot magnitude pruning (OMP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.card import Card
from secateur.data import Role
from secateur.knobs import Sparsity
from secateur.run import Run
from secateur.state import State
from secateur.steps._choice import Choice, Per, Rewind


@dataclass(frozen=True, kw_only=True)
class Magnitude(Choice):
    """Prune the smallest weights, of all layers together or of each.

    The choice reads no row, but the weights have: ``masks_saw`` takes over what they saw. Sparsity 0 changes
    nothing, not even by rewinding.
    """

    card: ClassVar[Card] = Card(
        summary="Prunes the smallest weights in one shot, and can rewind the rest.",
        paper="Ma et al., Sanity Checks for Lottery Tickets, NeurIPS 2021; rewinding: Frankle et al., ICML "
        "2020",
        data="none",
    )
    reads: ClassVar[frozenset[Role]] = frozenset()

    sparsity: Sparsity = 0.95
    per: Per = "network"
    rewind: Rewind = None

    def __call__(self, state: State, run: Run, /) -> State:
        """Choose the masks, then rewind under them."""
        if self.sparsity == 0:
            return state
        scores = {name: weight.abs() for name, weight in self.weights(state).items()}
        state = state.pruned(self.masks(state, scores, self.sparsity, per=self.per))
        return state.rewound(self.rewind) if self.rewind else state
