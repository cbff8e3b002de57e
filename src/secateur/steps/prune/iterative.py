"""Iterative magnitude pruning (IMP) with rewinding: the lottery ticket's way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from secateur.card import Card
from secateur.data import Role
from secateur.errors import UsageError
from secateur.optimize import cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.steps._choice import Choice, Per, Rewind, Rounds
from secateur.steps._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Iterative(Recipe, Choice):
    """Prune a trained network in rounds: drop the smallest weights, rewind the others, train again.

    A round trains on the pool from the epoch of the mark to the end of the schedule, so give the knobs of the
    training that kept the mark. What comes out is trained, and marks stay: one step of five rounds prunes as
    much as one of two and one of three. After k rounds in all, sparsity is 1 - (1 - share)^k, to the nearest
    weight; the trace notes it per round.

    Attributes:
        share: Share of the weights still left that goes in each round.
        rewind: Mark that each round goes back to ("epoch-2", kept by ``train`` with ``keep = [2]``); needed.
    """

    card: ClassVar[Card] = Card(
        summary="Prunes the smallest weights in rounds, each rewound and trained on the pool again.",
        paper="Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; rewinding: Frankle et al., "
        "Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020",
        data="pool",
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"pool"})

    rounds: Rounds = 3
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    per: Per = "network"
    rewind: Rewind = "epoch-2"

    def _check_together(self) -> None:
        super()._check_together()
        if self.rewind is None:
            raise UsageError(
                "expected a mark that each round goes back to, got none: keep one by `train` with keep = "
                '[2], and set rewind = "epoch-2"'
            )
        if int(self.rewind.removeprefix("epoch-")) >= self.epochs:
            raise UsageError(
                f'rewind = "{self.rewind}" leaves nothing of a schedule of {self.epochs} epochs: rewind to '
                "an earlier epoch, or set epochs as in the training that kept the mark"
            )

    def __call__(self, state: State, run: Run, /) -> State:
        """Prune, rewind and train, as often as asked for."""
        assert self.rewind is not None
        before = self._rounds_before(state)
        for number in range(1, self.rounds + 1):
            scores = {name: weight.abs() for name, weight in self.weights(state).items()}
            sparsity = 1 - (1 - self.share) ** (before + number)
            state = state.pruned(self.masks(state, scores, sparsity, per=self.per)).rewound(self.rewind)
            state.marks[self.rewind].check_schedule(self.epochs)
            start = state.marks[self.rewind].epoch
            loader = state.pool.loader(
                epochs=self.epochs - start, batch=self.batch, rng=run.rng(f"order-{number}")
            )
            sgd = self.sgd(start=start)
            state = optimize(state, loader, cross_entropy, optimizer=sgd, clip=self.clip, run=run)
            run.note("sparsity", state.sparsity)
        return state

    def _rounds_before(self, state: State) -> float:
        """How many rounds the masks so far amount to; whole after whole ones: no rounding adds up."""
        size, gone = self.size(state), self.gone(state)
        rounds = math.log(1 - min(gone, size - 1) / size) / math.log(1 - self.share)
        whole = round(rounds)
        return whole if round(size * (1 - (1 - self.share) ** whole)) == gone else rounds
