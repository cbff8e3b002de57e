"""The gradient of each row, for any module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.errors import DataError
from secateur.maths.curvature.model import (
    BUDGET,
    check_classes,
    check_finite,
    check_logits,
    choose,
    error_signal,
    logits_of,
    row_bytes,
    rows_in,
)
from secateur.maths.curvature.passes import Chunk, Rows, check_chunk, row_slice, split


def sample_gradients(
    model: nn.Module,
    batches: Iterable[Chunk],
    *,
    names: Iterable[str] | None = None,
    budget: int = BUDGET,
) -> Iterator[dict[str, Tensor]]:
    """The gradient of each row's cross-entropy at its own class, in nats, by ``torch.func``.

    Args:
        model: Returns logits [b, classes]; not changed.
        batches: Tuples that begin with x and y.
        names: Which parameters; None: those that require gradients.
        budget: Bytes of memory: chunks are cut so that they fit, never joined.

    Yields:
        Name to gradients [b, *shape], rows in the order in which they came.

    Raises:
        DataError: There is no row, or a row has no class.
        NotFinite: A gradient is NaN or infinite; the parameter is named.
        UsageError: There is no parameter to update, or batch norm is in training mode.
    """
    weights = choose(model, names)
    rows = 0
    for chunk in batches:
        check_chunk(chunk)
        if not rows and len(chunk[1]):
            rows = vmap_rows(model, weights, chunk[0], 1, budget)
        for x, y in split(chunk, rows or 1):
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                logits = logits_of(model, weights, row_slice(x, slice(0, 1)))
                check_logits(logits, y[:1])
                check_classes(logits, y)
                found = _gradients(model, weights, x, y)
            check_finite(found)
            yield found
    if not rows:
        raise DataError("expected at least one row, got none: there is no gradient of nothing")


def vmap_rows(
    model: nn.Module, weights: Mapping[str, Tensor], x: Rows, directions: int, budget: float
) -> int:
    """How many rows at once."""
    size = sum(w.nbytes for w in weights.values())
    return rows_in(budget, (1 + directions) * row_bytes(model, weights, x) + 3 * directions * size)


def _gradients(model: nn.Module, weights: Mapping[str, Tensor], x: Rows, y: Tensor) -> dict[str, Tensor]:
    def one(row: Rows, label: Tensor) -> dict[str, Tensor]:
        logits, pull, *_ = vjp(lambda w: logits_of(model, w, _alone(row)), dict(weights))
        found: dict[str, Tensor] = pull(error_signal(logits, label[None]))[0]
        return found

    gradients: dict[str, Tensor] = vmap(one)(x, y)
    return gradients


def vmap_squares(
    model: nn.Module, weights: Mapping[str, Tensor], x: Rows, signals: Tensor
) -> dict[str, Tensor]:
    """Sums over rows and directions of squared gradients.

    Args:
        model: The model.
        weights: The parameters.
        x: [b, ...].
        signals: Gradients in the logits, [directions, b, classes].

    Returns:
        Name to sums, in the shape of the parameter.
    """

    def one(row: Rows, signal: Tensor) -> dict[str, Tensor]:
        _, pull, *_ = vjp(lambda w: logits_of(model, w, _alone(row)), dict(weights))
        found: dict[str, Tensor] = vmap(lambda s: pull(s[None])[0])(signal)
        return found

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        found = vmap(one, in_dims=(0, 1))(x, signals)
        return {name: value.square().sum((0, 1)) for name, value in found.items()}


def _alone(row: Rows) -> Rows:
    return row[None] if isinstance(row, Tensor) else {name: value[None] for name, value in row.items()}
