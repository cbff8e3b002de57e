"""Random pruning: what any cleverer choice has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from secateur.card import Card
from secateur.data import Role
from secateur.knobs import Sparsity
from secateur.run import Run
from secateur.state import State
from secateur.steps._choice import Choice, Per


@dataclass(frozen=True, kw_only=True)
class Random(Choice):
    """Prune weights drawn uniformly, of all layers together or of each.

    Neither rows nor weights shape the choice, so ``masks_saw`` gains nothing: such masks leak nothing. Masks
    that were there before are kept, with what shaped them. Sparsity 0 changes nothing.
    """

    card: ClassVar[Card] = Card(
        summary="Prunes weights at random.",
        paper="Liu et al., The Unreasonable Effectiveness of Random Pruning, ICLR 2022",
        data="none",
    )
    reads: ClassVar[frozenset[Role]] = frozenset()

    sparsity: Sparsity = 0.95
    per: Per = "network"

    def __call__(self, state: State, run: Run, /) -> State:
        """Draw the masks from the stream "mask"."""
        if self.sparsity == 0:
            return state
        rng = run.rng("mask")
        # drawn on the CPU and in double: the same masks on every device and in every precision
        scores = {
            name: torch.rand(weight.shape, generator=rng, dtype=torch.float64).to(weight.device)
            for name, weight in self.weights(state).items()
        }
        return state.pruned(self.masks(state, scores, self.sparsity, per=self.per), saw=frozenset())
