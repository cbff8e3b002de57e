"""GraSP: prune what carries no gradient flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from secateur.card import Card
from secateur.maths.saliency import grasp
from secateur.run import Run
from secateur.split import Split
from secateur.state import State
from secateur.steps._choice import Sampled, scratch


@dataclass(frozen=True, kw_only=True)
class Grasp(Sampled):
    """Keep the weights with the largest ``w * H g``: without them the gradient would lose most of its norm.

    g and H are the gradient and the Hessian of the mean cross-entropy on some pool rows, in the weights in
    scope. Meant for a network that has not been trained; batch norm uses the statistics of each
    ``chunk``, and its running ones stay. Sparsity 0 changes nothing and reads nothing.

    Attributes:
        temperature: What the logits are divided by, which keeps the softmax from saturating.
    """

    card: ClassVar[Card] = Card(
        summary="Prunes in one shot the weights that carry least of the gradient's norm.",
        paper="Wang, Zhang and Grosse, Picking Winning Tickets Before Training by Preserving Gradient Flow, "
        "ICLR 2020",
        data="a few rows of the pool",
    )

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 200.0

    def gradients(self, split: Split) -> float:
        """For estimates: a gradient and a product with the Hessian (benchmarks/curvature.py)."""
        return 5.6 * super().gradients(split)

    def __call__(self, state: State, run: Run, /) -> State:
        """Score on rows from the stream "rows", then choose the masks."""
        if self.sparsity == 0:
            return state
        weights = self.weights(state)
        chunks = self.chunks(state, run)
        model = scratch(state.model, weights).train()
        scores = grasp(model, chunks, list(weights), temperature=self.temperature, kept=state.masks)
        return state.pruned(self.masks(state, scores, self.sparsity, per=self.per))
