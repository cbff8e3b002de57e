"""l1-sparse unlearning: fine-tune on retain under an l1 penalty, which needs no mask beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from secateur.card import Card
from secateur.data import Batch, Role
from secateur.errors import UsageError
from secateur.knobs import Epochs, Gamma, Lr, Schedule
from secateur.maths.proximal import soft_threshold
from secateur.optimize import cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class L1Sparse(Recipe):
    """Minimise cross-entropy on retain plus gamma_t times the l1 norm of the weights.

    With t whole epochs done of E, and a tail of E0: "linear" is gamma_t = gamma (1 - t / (E - E0)),
    "constant" is gamma, "rising" is gamma t / (E - E0); in the tail it is zero. A linear fade or a tail sets
    weights free again near the end: for the most exact zeros take "proximal" with "constant" and no tail. The
    trace's sparsity says how many there are.

    Attributes:
        gamma: Weight of the l1 norm in the objective.
        fade: How gamma moves over the run.
        tail: Last epochs without the l1 term.
        penalty: "subgradient" adds the norm to the loss, as published (no exact zeros); "proximal" shrinks
            after each update by gamma_t * lr / (1 - momentum), which gives exact zeros.
        over: "weights": parameters with more than one dimension; "all": every parameter, as published.
    """

    card: ClassVar[Card] = Card(
        summary="Fine-tunes on the retained rows under an l1 penalty.",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, section 4, "
        "equation 3",
        data="retain",
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    epochs: Epochs = 10
    lr: Lr = 0.01
    schedule: Schedule = "constant"
    gamma: Gamma = 5e-4
    fade: Literal["linear", "constant", "rising"] = "linear"
    tail: Annotated[int, Field(ge=0)] = 0
    penalty: Literal["subgradient", "proximal"] = "subgradient"
    over: Literal["weights", "all"] = "weights"

    def _check_together(self) -> None:
        super()._check_together()
        if self.tail >= self.epochs:
            raise UsageError(
                f"tail = {self.tail} leaves no epoch of {self.epochs} with the l1 term: shorten the tail"
            )

    def gamma_at(self, progress: float) -> float:
        """gamma_t at a progress in [0, 1)."""
        # the small part keeps 3 / 5 * 5 from being 2 whole epochs
        share = int(progress * self.epochs + 1e-9) / (self.epochs - self.tail)
        if share >= 1:
            return 0.0
        return self.gamma * {"linear": 1 - share, "constant": 1.0, "rising": share}[self.fade]

    def __call__(self, state: State, run: Run, /) -> State:
        """Fine-tune under the penalty."""
        lowest = 2 if self.over == "weights" else 0
        penalised = [p for p in state.model.parameters() if p.requires_grad and p.ndim >= lowest]

        def penalised_loss(model: nn.Module, batch: Batch, progress: float) -> Tensor:
            norm = sum(p.abs().sum() for p in penalised)
            return cross_entropy(model, batch, progress) + self.gamma_at(progress) * norm

        def shrink(weight: Tensor, step: float, progress: float) -> Tensor:
            return soft_threshold(weight, step * self.gamma_at(progress)) if weight.ndim >= lowest else weight

        smooth = self.penalty == "proximal"
        loader = state.retain.loader(epochs=self.epochs, batch=self.batch, rng=run.rng("order"))
        return optimize(
            state,
            loader,
            cross_entropy if smooth else penalised_loss,
            optimizer=self.sgd(),
            clip=self.clip,
            proximal=shrink if smooth else None,
            run=run,
        )
