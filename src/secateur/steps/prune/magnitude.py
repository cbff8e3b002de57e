"""One-shot magnitude pruning (OMP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from secateur.card import Card
from secateur.data import Role
from secateur.errors import DataError
from secateur.knobs import Sparsity
from secateur.maths.saliency import keep_largest
from secateur.run import Run
from secateur.state import State


@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Prune the smallest weights of the network, all layers together.

    The choice reads no row, but the weights have: ``masks_saw`` takes over what they saw. Sparsity 0 changes
    nothing, not even by rewinding.

    Attributes:
        sparsity: Share of the weights in scope that is zero afterwards, in [0, 1); exactly ``round(sparsity *
            n)`` of n.
        scope: Which weights count: of convolutions and linear layers together, or of one kind.
        rewind: Mark to put the kept weights back to ("epoch-2", kept by ``train`` with ``keep = [2]``); none:
            keep them.
    """

    card: ClassVar[Card] = Card(
        summary="Prunes the globally smallest weights in one shot, and can rewind the rest.",
        paper="Ma et al., Sanity Checks for Lottery Tickets, NeurIPS 2021; rewinding: Frankle et al., ICML "
        "2020",
        data="none",
    )
    reads: ClassVar[frozenset[Role]] = frozenset()

    sparsity: Sparsity = 0.95
    scope: Literal["all", "conv", "linear"] = "all"
    rewind: Annotated[str | None, Field(pattern=r"^epoch-\d+$")] = None

    def __call__(self, state: State, run: Run, /) -> State:
        """Choose the masks, then rewind under them."""
        if self.sparsity == 0:
            return state
        if not (weights := state.prunable(self.scope)):
            raise DataError(
                f'expected weights to prune in scope = "{self.scope}", and the model has none: widen it'
            )
        scores = {name: weight.abs() for name, weight in weights.items()}
        masks = keep_largest(scores, self.sparsity, kept=state.masks)
        state = state.pruned({**state.masks, **masks})
        return state.rewound(self.rewind) if self.rewind else state
