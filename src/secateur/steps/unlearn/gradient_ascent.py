"""Gradient ascent on the forget rows, under an l1 penalty if asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from secateur.card import Card
from secateur.data import Batch, Role
from secateur.knobs import Epochs, Gamma, Lr, Schedule
from secateur.optimize import cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class GradientAscent(Recipe):
    """Climb the cross-entropy of the forget rows, less gamma times the l1 norm of the weights.

    Attributes:
        gamma: Weight of the l1 norm, over parameters with more than one dimension, all the way; 0: plain
            ascent. By subgradient, so there are no exact zeros (GA + l1 of Jia et al., NeurIPS 2023).
        norms: Batch-norm statistics: "frozen" while climbing and after; "recompute" also estimates them anew
            on retain afterwards (then ``reads`` names retain). Left to follow forget batches they would drift
            to the forget rows.
    """

    card: ClassVar[Card] = Card(
        summary="Climbs the loss of the forget rows for a few small steps.",
        paper="Graves et al., Amnesiac Machine Learning, AAAI 2021; Thudi et al., Unrolling SGD, EuroS&P "
        "2022",
        data='forget; also retain with norms = "recompute"',
    )

    epochs: Epochs = 5
    lr: Lr = 1e-4
    schedule: Schedule = "constant"
    gamma: Gamma = 0.0
    norms: Annotated[
        Literal["frozen", "recompute"], Field(description="what happens to batch-norm statistics")
    ] = "frozen"

    @property
    def reads(self) -> frozenset[Role]:
        """Forget; and retain where the statistics are recomputed."""
        return frozenset({"forget", "retain"}) if self.norms == "recompute" else frozenset({"forget"})

    def __call__(self, state: State, run: Run, /) -> State:
        """Climb, then put the statistics right."""
        penalised = [p for p in state.model.parameters() if p.requires_grad and p.ndim > 1]

        def gain(model: nn.Module, batch: Batch, progress: float) -> Tensor:
            norm = sum(p.abs().sum() for p in penalised)
            return cross_entropy(model, batch, progress) - self.gamma * norm

        loader = state.forget.loader(epochs=self.epochs, batch=self.batch, rng=run.rng("order"))
        sgd, objective = self.sgd(ascend=True), gain if self.gamma else cross_entropy
        state = optimize(state, loader, objective, optimizer=sgd, clip=self.clip, norms="frozen", run=run)
        if self.norms == "recompute":
            update_bn(state.retain.once(), state.model)
        return state
