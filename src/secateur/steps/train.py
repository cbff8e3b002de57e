"""Train on the pool: the original model, or what is left of a schedule after pruning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from secateur.card import Card
from secateur.data import Role
from secateur.errors import UsageError
from secateur.optimize import Plainly, cross_entropy, optimize
from secateur.run import Run
from secateur.state import Mark, State
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Train(Recipe):
    """Minimise cross-entropy on the pool.

    Attributes:
        keep: Epochs of the schedule to mark ("epoch-2") for rewinding; 0 is the start.
        start: Epoch of the schedule to begin at: after rewinding to "epoch-2", 2.
    """

    card: ClassVar[Card] = Card(
        summary="Trains on the whole pool by SGD.",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, section 5 "
        "(settings)",
        data="pool",
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"pool"})

    keep: tuple[Annotated[int, Field(ge=0)], ...] = ()
    start: Annotated[int, Field(ge=0)] = 0

    def _check_together(self) -> None:
        super()._check_together()
        if self.start >= self.epochs:
            raise UsageError(
                f"start = {self.start} leaves nothing of a schedule of {self.epochs} epochs: begin earlier"
            )
        if outside := [epoch for epoch in self.keep if not self.start <= epoch <= self.epochs]:
            raise UsageError(
                f"keep = {outside[0]} is outside the epochs {self.start}..{self.epochs} of this step"
            )

    @property
    def plainly(self) -> Plainly | None:
        """What this training comes to, where it keeps no marks and clips nothing."""
        if self.keep or self.start or self.clip is not None:
            return None
        return Plainly(role="pool", epochs=self.epochs, batch=self.batch, sgd=self.sgd())

    def __call__(self, state: State, run: Run, /) -> State:
        """Train, and keep the marks."""
        if self.start and (begun := state.marks.get(f"epoch-{self.start}")):
            begun.check_schedule(self.epochs)

        def marked(now: State, epochs: int) -> State:
            if (epoch := self.start + epochs) not in self.keep:
                return now
            saw = now.weights_saw | self.reads if epochs else now.weights_saw
            return replace(
                now, marks={**now.marks, f"epoch-{epoch}": Mark.of(now.model, epoch, saw, self.epochs)}
            )

        loader = state.pool.loader(epochs=self.epochs - self.start, batch=self.batch, rng=run.rng("order"))
        sgd = self.sgd(start=self.start)
        state = marked(state, 0)
        return optimize(
            state, loader, cross_entropy, optimizer=sgd, clip=self.clip, after_epoch=marked, run=run
        )
