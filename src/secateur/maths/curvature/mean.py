"""Means over all rows, a chunk at a time; and the plainest of them, the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from secateur.maths.curvature.model import (
    BUDGET,
    check_classes,
    check_finite,
    choose,
    error_signal,
    logits_of,
    look,
    pull,
    rows_in,
)
from secateur.maths.curvature.passes import Batches, Chunk, Pass, Rows, once, own_part, split
from secateur.ranks import add_up

Part = Callable[[Mapping[str, Tensor], Rows, Tensor], Mapping[str, Tensor]]


def mean_gradient(
    model: nn.Module,
    batches: Batches | Pass | Iterable[Chunk],
    *,
    names: Iterable[str] | None = None,
    budget: int = BUDGET,
) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy over all rows, in nats per unit of weight.

    Args:
        model: Returns logits [b, classes]; not changed.
        batches: Tuples that begin with x and y, or a function that starts a pass over them; one is taken.
        names: Which parameters; None: those that require gradients.
        budget: Bytes of memory: chunks are cut so that they fit, never joined.

    Returns:
        Name to the gradient, in the shape of the parameter.

    Raises:
        DataError: There is no row, or a row has no class.
        NotFinite: The gradient is NaN or infinite; the parameter is named.
        UsageError: There is no parameter to update, batch norm is in training mode, or the model is random.
    """

    def part(free: Mapping[str, Tensor], x: Rows, y: Tensor) -> dict[str, Tensor]:
        logits = logits_of(model, free, x)
        check_classes(logits, y)
        return pull(logits, free, error_signal(logits.detach(), y))

    return mean_over_rows(model, choose(model, names), once(batches), part, budget / 2, "gradient")


def mean_over_rows(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    chunks: Iterable[Chunk],
    part: Part,
    budget: float,
    what: str,
) -> dict[str, Tensor]:
    """The mean over rows of what ``part`` sums over those of a chunk.

    Args:
        model: The model.
        weights: The parameters, detached.
        chunks: One pass.
        part: From leaves that require gradients, x and y.
        budget: Bytes for what autograd keeps of a chunk in one forward pass.
        what: What it is a mean of.

    Returns:
        Name to the mean.
    """
    sums = wide_zeros(weights)
    size, rows = 0, 0
    for chunk in chunks:
        size = size or rows_in(budget, look(model, weights, chunk[0]))
        rows += len(chunk[1])
        for x, y in split(own_part(chunk), size):
            free = {name: w.detach().requires_grad_() for name, w in weights.items()}
            with torch.enable_grad():
                found = part(free, x, y)
            for name, value in found.items():
                sums[name] += value
    return mean_of(sums, rows, weights, what)


def wide_zeros(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Where sums over rows begin: in double precision, or many chunks would sum less exactly than few."""
    return {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}


def mean_of(
    sums: Mapping[str, Tensor], rows: int, weights: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """Sums over rows as means, in the type of the weights.

    Args:
        sums: Name to the sum; where several processes compute together, over the rows of this one.
        rows: How many, in all processes.
        weights: The parameters.
        what: What they are, should one not be finite.

    Returns:
        Name to the mean.
    """
    add_up(sums.values())
    found = {name: (value / rows).to(weights[name].dtype) for name, value in sums.items()}
    check_finite(found, what)
    return found
