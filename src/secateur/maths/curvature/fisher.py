"""The diagonal of the Fisher information."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from secateur.errors import DataError, UsageError, nearest
from secateur.maths.curvature.layers import Layers
from secateur.maths.curvature.model import (
    BUDGET,
    check_finite,
    check_logits,
    choose,
    error_signal,
    row_bytes,
    rows_in,
)
from secateur.maths.curvature.passes import Chunk, Rows, check_chunk, split
from secateur.maths.curvature.samples import vmap_rows, vmap_squares

Kind = Literal["expected", "sampled", "empirical"]
_TOGETHER = 16  # classes whose gradients are held at once


def diagonal_fisher(
    model: nn.Module,
    batches: Iterable[Chunk],
    *,
    kind: Kind = "expected",
    rng: Generator | None = None,
    names: Iterable[str] | None = None,
    budget: int = BUDGET,
) -> dict[str, Tensor]:
    """The mean over rows of squared gradients, one row at a time: never the square of a batch's mean.

    F_jj = 1/n sum_i E_c[(d log p(c | x_i) / d w_j)^2], in nats squared per unit of w squared (Martens, New
    insights and perspectives on the natural gradient method, JMLR 2020, who sets the kinds apart; Kunstner,
    Balles and Hennig, NeurIPS 2019, on what the empirical one is not). The expected kind is also the diagonal
    of the generalised Gauss-Newton matrix of cross-entropy.

    Args:
        model: Returns logits [b, classes]; not changed.
        batches: Tuples that begin with x and y; one pass is taken.
        kind: Whose classes. "expected": all of them, weighted by the model's own probabilities, which costs a
            backward pass for each; "sampled": one for each row, drawn from these (unbiased, one
            backward pass); "empirical": y.
        rng: A CPU generator, for "sampled": one number for each row, in their order.
        names: Which parameters; None: those that require gradients.
        budget: Bytes of memory: chunks are cut so that they fit, never joined.

    Returns:
        Name to the diagonal, in the shape of the parameter.

    Raises:
        DataError: There is no row, or a row has no class.
        NotFinite: A gradient is NaN or infinite; the parameter is named.
        UsageError: There is no parameter to update, batch norm is in training mode, or "sampled" lacks
            ``rng``.
    """
    if kind not in get_args(Kind):
        raise UsageError(f'no Fisher is called "{kind}", {nearest(kind, get_args(Kind))}')
    if kind == "sampled" and rng is None:
        raise UsageError(
            "expected `rng` for the sampled Fisher, got none: its classes are drawn, and without a named "
            'stream nobody could draw them again; give a CPU generator, or take kind="expected"'
        )
    weights = choose(model, names)
    sums = {name: torch.zeros_like(w) for name, w in weights.items()}
    layers, size, rows = None, 1, 0
    for chunk in batches:
        check_chunk(chunk)
        if not len(chunk[1]):
            continue
        if layers is None:
            layers = Layers(model, weights, chunk[0])
            size = _rows_at_once(layers, chunk[0], 1 if kind != "expected" else _TOGETHER, budget)
        for x, y in split(chunk, size):
            _add(layers, x, y, kind, rng, budget, sums)
            rows += len(y)
    if not rows:
        raise DataError("expected at least one row, got none: no Fisher information comes from nothing")
    check_finite(sums)
    return {name: value / rows for name, value in sums.items()}


def _rows_at_once(layers: Layers, x: Rows, directions: int, budget: float) -> int:
    each = row_bytes(layers.model, layers.weights, x) + layers.row_bytes(x, directions)
    return rows_in(budget / 2, each)  # the other half is for products of one layer


def _add(
    layers: Layers,
    x: Rows,
    y: Tensor,
    kind: Kind,
    rng: Generator | None,
    budget: float,
    sums: dict[str, Tensor],
) -> None:
    """Add a chunk's squared gradients to the sums."""
    logits, seen = layers.forward(x)
    check_logits(logits, y)
    signals = _signals(logits, y, kind, rng)
    rest: set[str] = set(sums)
    for start in range(0, len(signals), _TOGETHER):
        part = signals[start : start + _TOGETHER]
        last = start + _TOGETHER >= len(signals)
        found = layers.squares(seen, part, budget / 2, last=last)
        for name, value in found.items():
            sums[name] += value
        rest -= set(found)
    if rest:
        weights = {name: layers.weights[name] for name in sums if name in rest}
        for start in range(0, len(signals), _TOGETHER):
            part = signals[start : start + _TOGETHER]
            size = vmap_rows(layers.model, weights, x, len(part), budget)
            for at, (few, _) in enumerate(split((x, y), size)):
                signal = torch.stack([s[at * size : (at + 1) * size] for s in part])
                for name, value in vmap_squares(layers.model, weights, few, signal).items():
                    sums[name] += value


def _signals(logits: Tensor, y: Tensor, kind: Kind, rng: Generator | None) -> list[Tensor]:
    """Gradients in the logits, one [b, classes] for each direction; their squares add up to the Fisher."""
    if kind == "empirical":
        return [error_signal(logits, y)]
    if kind == "sampled":
        # torch.multinomial draws otherwise when the rows are cut otherwise; this draws one number a row
        chances = logits.cpu().double().softmax(1).cumsum(1)
        points = torch.rand(len(y), 1, generator=rng, dtype=torch.float64) * chances[:, -1:]
        drawn = torch.searchsorted(chances, points, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
        return [error_signal(logits, drawn.to(y.device))]
    chances = logits.softmax(1)
    each = torch.arange(logits.shape[1], device=y.device)
    return [error_signal(logits, c.expand(len(y))) * chances[:, int(c), None].sqrt() for c in each]
