"""Pruning and unlearning at once: fine-tune on retain, and prune every few epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from secateur.card import Card
from secateur.data import Role
from secateur.errors import UsageError
from secateur.knobs import Epochs, Lr, Schedule, Sparsity
from secateur.optimize import cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.steps._choice import Choice
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PruneAndTune(Choice, Recipe):
    """Fine-tune on retain, and prune the smallest weights of all layers together along the way.

    It prunes before epochs 1, 1 + every, 1 + 2 every ..., so at least one epoch of tuning follows the last
    pruning. The number of pruned weights rises from that of the present masks in even steps to exactly
    ``round(sparsity * n)``; the trace notes the share of zeros of each epoch. Masks chosen from the second
    pruning on have seen retain, and the first ones what the weights that came in had seen.

    Attributes:
        sparsity: Share of the weights in scope that is zero from the last pruning on, in [0, 1); 0 prunes
            nothing, and is plain fine-tuning.
        every: Epochs from one pruning to the next; with as many as ``epochs`` it prunes once, before the
            first.
    """

    card: ClassVar[Card] = Card(
        summary="Fine-tunes on the retained rows, and prunes every few epochs.",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023 (pruning and "
        "unlearning at once)",
        data="retain",
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    epochs: Epochs = 10
    lr: Lr = 0.01
    schedule: Schedule = "constant"
    sparsity: Sparsity = 0.95
    every: Annotated[int, Field(ge=1)] = 2

    def __call__(self, state: State, run: Run, /) -> State:
        """Prune and tune by turns."""
        prunings = range(0, self.epochs, self.every) if self.sparsity else range(0)  # in epochs done
        size, gone = (self.size(state), self.gone(state)) if prunings else (1, 0)
        rise = round(self.sparsity * size) - gone
        if prunings and rise < 0:
            raise UsageError(
                f"expected to prune at least the {gone} of {size} weights that the masks prune already, got "
                f"sparsity {self.sparsity} ({gone + rise} weights): no weight grows back; ask for more, or "
                "take `fine-tune`, which keeps the masks"
            )

        def pruned(state: State, done: int) -> State:
            # in whole weights: shares that are added up could miss the last one
            count = gone + round(rise * (prunings.index(done) + 1) / len(prunings))
            scores = {name: weight.abs() for name, weight in self.weights(state).items()}
            return state.pruned(self.masks(state, scores, count / size))

        def after_epoch(state: State, done: int) -> State | None:
            run.note("sparsity", state.sparsity)
            return pruned(state, done) if done in prunings else None

        if prunings:
            state = pruned(state, 0)
        loader = state.retain.loader(epochs=self.epochs, batch=self.batch, rng=run.rng("order"))
        return optimize(
            state,
            loader,
            cross_entropy,
            optimizer=self.sgd(),
            clip=self.clip,
            after_epoch=after_epoch,
            run=run,
        )
