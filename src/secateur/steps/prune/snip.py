"""SNIP: prune by what the loss feels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.card import Card
from secateur.maths.saliency import snip
from secateur.run import Run
from secateur.state import State
from secateur.steps._choice import Sampled, scratch


@dataclass(frozen=True, kw_only=True)
class Snip(Sampled):
    """Prune the weights with the lowest ``|w * dL/dw|``, L being the mean cross-entropy on some pool rows.

    Meant for a network that has not been trained; batch norm uses the statistics of each
    ``chunk``, and its running ones stay. Sparsity 0 changes nothing and reads nothing.
    """

    card: ClassVar[Card] = Card(
        summary="Prunes in one shot the weights that the loss on a few rows feels least.",
        paper="Lee, Ajanthan and Torr, SNIP: Single-shot Network Pruning based on Connection Sensitivity, "
        "ICLR 2019",
        data="a few rows of the pool",
    )

    def __call__(self, state: State, run: Run, /) -> State:
        """Score on rows from the stream "rows", then choose the masks."""
        if self.sparsity == 0:
            return state
        weights = self.weights(state)
        chunks = self.chunks(state, run)
        scores = snip(scratch(state.model, weights).train(), chunks, list(weights))
        return state.pruned(self.masks(state, scores, self.sparsity, per=self.per))
