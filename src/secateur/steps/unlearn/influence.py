"""Influence unlearning: one Newton step away from the forget rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils import get_total_norm

from secateur.card import Card
from secateur.data import Role
from secateur.knobs import Damping, Rows, Scale
from secateur.maths.curvature import Curvature, Solution, low_rank, mean_gradient, solve
from secateur.network import fill
from secateur.run import Run
from secateur.split import Split
from secateur.state import State


@dataclass(frozen=True, kw_only=True)
class Influence:
    """Add scale * (C + damping I)^-1 v to the unmasked weights.

    v = 1/N sum_forget grad - |forget| / (N |retain|) sum_retain grad, over N rows in all. At a minimum of the
    pool's mean loss it is the slope down that of the retained rows; so with C the Hessian of the latter,
    scale 1 is a Newton step towards retraining (under weight decay, damping is its factor).

    Attributes:
        curvature: C, over retained rows: "ggn", the generalised Gauss-Newton matrix, which is never negative;
            or "hessian", which may be: then conjugate gradients refuse it until damping outweighs that.
        solver: "cg" inverts C; "woodfisher" the empirical Fisher of retained rows, by rank-one updates;
            "diagonal" the diagonal of the GGN. The last two do not look at ``curvature``.
        tolerance: Relative residual at which "cg" stops.
        products: Products with C that "cg" takes at most; the trace tells the residual that it reached.
        rank: Gradients that "cg" keeps, to need fewer products where damping is small: a preconditioner, so
            the solution is the same to ``tolerance``. 0: none; above ``rows``: several of each row.
    """

    card: ClassVar[Card] = Card(
        summary="One damped Newton step on the retained rows' loss, away from the forget rows.",
        paper="Koh and Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017; Izzo "
        "et al., Approximate Data Deletion, AISTATS 2021; Jia et al., NeurIPS 2023",
        data="forget and retain",
        version=2,
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"forget", "retain"})

    scale: Scale = 1.0
    damping: Damping = 0.01
    curvature: Literal["ggn", "hessian"] = "ggn"
    solver: Literal["cg", "woodfisher", "diagonal"] = "cg"
    rows: Rows = None
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    products: Annotated[int, Field(ge=1)] = 100
    rank: Annotated[int, Field(ge=0)] = 0

    def gradients(self, split: Split) -> float:
        """For estimates, at most: a product takes several for each row (benchmarks/curvature.py)."""
        rows = min(self.rows or len(split.retain), len(split.retain))
        each = {
            "cg": (self.products + 1) * (1.8 if self.curvature == "ggn" else 4.6),
            "diagonal": 1.4 * split.classes,
            "woodfisher": math.nan,  # rank-one updates may take longer than all gradients
        }
        return len(split.pool) + each[self.solver] * rows + self.rank

    def __call__(self, state: State, run: Run, /) -> State:
        """Solve for the step and take it."""
        state.model.to(memory_format=run.layout)  # type: ignore[call-overload]
        retain = state.retain if self.rows is None else state.retain.sample(self.rows, run.rng("rows"))
        matrix = Curvature(state.model, retain.once, kind=self.curvature)
        found = self._solve(matrix, _direction(state), state.masks, run)
        run.note("residual", found.residual)
        run.note("iterations", found.iterations)
        run.note("step norm", float(get_total_norm(found.vector.values())) * abs(self.scale))
        with torch.no_grad():
            for name, step in found.vector.items():
                state.model.get_parameter(name).add_(step, alpha=self.scale)
        fill(state.model, state.masks)  # what is masked moved by +0.0, which takes a sign away
        return state

    def _solve(
        self, matrix: Curvature, v: Mapping[str, Tensor], masks: Mapping[str, Tensor], run: Run
    ) -> Solution:
        if self.solver != "cg":
            return solve(matrix, v, how=self.solver, damping=self.damping, masks=masks)
        ease = None
        if self.rank:
            rng = run.rng("preconditioner")
            ease = low_rank(matrix, rank=self.rank, damping=self.damping, rng=rng, masks=masks)
        with run.progress.bar("conjugate gradients", self.products) as advance:

            def product(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
                advance(1)
                return matrix(vectors)

            return solve(
                product,
                v,
                damping=self.damping,
                masks=masks,
                tolerance=self.tolerance,
                iterations=self.products,
                preconditioner=ease,
            )


def _direction(state: State) -> dict[str, Tensor]:
    """v: |forget| / N times the difference of the mean gradients."""
    forget, retain = (mean_gradient(state.model, view.once()) for view in (state.forget, state.retain))
    share = len(state.forget) / (len(state.forget) + len(state.retain))
    return {name: share * (forget[name] - retain[name]) for name in forget}
