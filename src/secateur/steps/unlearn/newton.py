"""Newton removal: the head's exact minimum on the retained rows, over features that stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from secateur.card import Card
from secateur.data import Role
from secateur.errors import StepError
from secateur.knobs import L2
from secateur.maths.curvature import Curvature, mean_gradient, solve
from secateur.network import copy_model, fill, find_head
from secateur.run import Run
from secateur.state import State

Rows = tuple[Tensor, Tensor]
_PRODUCTS = 1000  # of conjugate gradients in one Newton step
_HALVINGS = 40


@dataclass(frozen=True, kw_only=True)
class Newton:
    """Minimise mean cross-entropy + l2 / 2 ||w||^2 of the retained rows over the head's trainable weights.

    In these the objective is strictly convex, so the minimum is what training the head without the forget
    rows would give, and nothing of them is left in it. Features that have seen the forget rows still have:
    in a linear model, or over features made elsewhere, removal is exact. Newton steps in double precision,
    solved by conjugate gradients and shortened until the gradient falls.

    Attributes:
        l2: Penalty on all of the head's trainable weights, its bias among them; above 0, or rows that can be
            separated have no minimum.
        bound: On the l2 norm of the gradient, in nats: the weights are then within bound / l2 of the minimum,
            before they are rounded to the precision of the run.
        steps: Newton steps at most; if the bound is not reached, the step fails.
    """

    card: ClassVar[Card] = Card(
        summary="Solves the linear head anew on retained rows: exact for a linear model or given features.",
        paper="Guo, Goldstein, Hannun and van der Maaten, Certified Data Removal, ICML 2020",
        data="retain",
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    l2: L2 = 1e-3
    bound: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-9
    steps: Annotated[int, Field(ge=1)] = 50

    def __call__(self, state: State, run: Run, /) -> State:
        """Take the features, minimise over a copy in double precision, and round it back."""
        path = find_head(state.model, next(state.retain.once(batch=2)).x)
        layer = state.model.get_submodule(path)
        chunks = _features(state, layer, run)
        exact = copy_model(layer).double()
        names = {key: f"{path}.{key}".lstrip(".") for key, _ in exact.named_parameters()}
        masks = {key: state.masks[name] for key, name in names.items() if name in state.masks}
        self._minimise(exact, chunks, masks, run)
        with torch.no_grad():
            for key, weight in exact.named_parameters():
                layer.get_parameter(key).copy_(weight)
        fill(state.model, state.masks)
        return state

    def _minimise(self, layer: nn.Module, rows: list[Rows], masks: Mapping[str, Tensor], run: Run) -> None:
        weights = {key: p for key, p in layer.named_parameters() if p.requires_grad}
        slope, size = self._slope(layer, rows, masks)
        run.note("gradient", size)
        for _ in range(self.steps):
            if size <= self.bound:
                return
            found = solve(
                Curvature(layer, rows),
                slope,
                damping=self.l2,
                masks=masks,
                tolerance=min(0.1, max(size, 1e-6)),
                iterations=_PRODUCTS,
            )
            before = {key: weight.detach().clone() for key, weight in weights.items()}
            for halvings in range(_HALVINGS):
                length = 0.5**halvings
                with torch.no_grad():
                    for key, weight in weights.items():
                        weight.copy_(before[key] - length * found.vector[key])
                slope, left = self._slope(layer, rows, masks)
                if left <= (1 - length / 4) * size:
                    break
            run.note("gradient", size := left)
        if size > self.bound:
            raise StepError(
                f"expected a gradient under {self.bound:g} after at most {self.steps} Newton steps, got "
                f"{size:.3g}: it is not the minimum yet, and would not be exact; raise l2, steps or bound"
            )

    def _slope(
        self, layer: nn.Module, rows: list[Rows], masks: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], float]:
        """The gradient of the objective over what may move, and its norm."""
        found = mean_gradient(layer, rows)
        for key, slope in found.items():
            slope.add_(layer.get_parameter(key).detach(), alpha=self.l2)
            if key in masks:
                slope.masked_fill_(~masks[key], 0.0)
        return found, float(get_total_norm(found.values()))


@torch.no_grad()
def _features(state: State, layer: nn.Module, run: Run) -> list[Rows]:
    """What the head gets of each retained row, in double precision, with the classes."""
    caught, rows = list[Tensor](), list[Rows]()
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].double()))
    with hook, run.progress.bar("features", len(state.retain)) as advance:
        for batch in state.retain.once():
            state.model(batch.x)
            rows.append((caught.pop(), batch.y))
            advance(len(batch.y))
    return rows
