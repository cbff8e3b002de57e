"""The diagonal of the Fisher information."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from secateur.errors import UsageError, nearest
from secateur.maths.curvature.layers import Layers
from secateur.maths.curvature.mean import mean_of, wide_zeros
from secateur.maths.curvature.model import BUDGET, check_classes, choose, error_signal, look, rows_in
from secateur.maths.curvature.passes import Batches, Chunk, Pass, Rows, once, own_part, row_slice, split
from secateur.maths.curvature.samples import RowGradients, given
from secateur.ranks import own

Kind = Literal["expected", "sampled", "empirical"]
_TOGETHER = 16  # directions whose gradients are held at once


def diagonal_fisher(
    model: nn.Module,
    batches: Batches | Pass | Iterable[Chunk],
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
        batches: Tuples that begin with x and y, or a function that starts a pass over them; one is taken.
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
        UsageError: There is no parameter to update, batch norm is in training mode, the model is random, or
            "sampled" lacks ``rng``.
    """
    if kind not in get_args(Kind):
        raise UsageError(f'no Fisher is called "{kind}", {nearest(kind, get_args(Kind))}')
    if kind == "sampled" and rng is None:
        raise UsageError(
            "expected `rng` for the sampled Fisher, got none: its classes are drawn, and without a named "
            'stream nobody could draw them again; give a CPU generator, or take kind="expected"'
        )
    weights = choose(model, names)
    sums, rows = wide_zeros(weights), 0
    squares: _Squares | None = None
    for chunk in once(batches):
        squares = squares or _Squares(model, weights, chunk[0], kind, budget)
        count = len(chunk[1])
        rows += count
        # one number for each row, whoever takes it and however the rows are cut
        points = torch.rand(count, generator=rng, dtype=torch.float64) if kind == "sampled" else None
        mine = points if points is None else points[own(count)]
        seen = 0
        for x, y in split(own_part(chunk), squares.size):
            for name, value in squares.of(x, y, mine if mine is None else mine[seen : seen + len(y)]):
                sums[name] += value
            seen += len(y)
    return mean_of(sums, rows, weights, "gradient")


class _Squares:
    """Sums over rows of squared gradients: by layers where it can be, or row by row."""

    def __init__(
        self, model: nn.Module, weights: Mapping[str, Tensor], x: Rows, kind: Kind, budget: float
    ) -> None:
        self._model, self._weights, self._kind, self._budget = model, weights, kind, budget
        each = look(model, weights, x)
        self._layers = Layers(model, weights, x)
        self._others: dict[frozenset[str], RowGradients] = {}
        directions = min(_TOGETHER, self._layers.classes) if kind == "expected" else 1
        # the other half is for products of one layer, or for rows one by one
        self.size = rows_in(budget / 2, each + self._layers.row_bytes(x, directions))

    def of(self, x: Rows, y: Tensor, points: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """Names, each as often as there are parts of its sum."""
        seen = self._layers.forward(x)
        check_classes(seen.logits, y)
        labels, scales = _directions(seen.logits, y, self._kind, points)
        rest = frozenset(self._weights) - (self._layers.names & seen.whole) - seen.unused
        if rest and rest not in self._others:
            self._others[rest] = RowGradients(
                self._model, {n: self._weights[n] for n in self._weights if n in rest}, x
            )
        for start in range(0, len(labels), _TOGETHER):
            at = slice(start, start + _TOGETHER)
            signals = [
                error_signal(seen.logits, label) * scale[:, None]
                for label, scale in zip(labels[at], scales[at], strict=True)
            ]
            last = start + _TOGETHER >= len(labels)
            yield from self._layers.squares(seen, signals, self._budget / 2, last=last)
            if rest:
                yield from self._general(self._others[rest], x, torch.stack(signals, 1))

    def _general(self, gradients: RowGradients, x: Rows, signals: Tensor) -> Iterator[tuple[str, Tensor]]:
        size = gradients.rows_in(self._budget / 2, signals.shape[1])
        for start in range(0, len(signals), size):
            at = slice(start, start + size)
            for name, value in gradients(row_slice(x, at), signals[at], given).items():
                yield name, value.square().sum((0, 1))


def _directions(logits: Tensor, y: Tensor, kind: Kind, points: Tensor | None) -> tuple[Tensor, Tensor]:
    """Classes and scales [directions, b]; the squares of scaled gradients at them add up to the Fisher."""
    if kind == "expected":
        labels = torch.arange(logits.shape[1], device=y.device)[:, None].expand(-1, len(y))
        return labels, logits.softmax(1).T.sqrt()
    if points is not None:  # [b], in [0, 1)
        # torch.multinomial draws otherwise when the rows are cut otherwise
        chances = logits.cpu().double().softmax(1).cumsum(1)
        drawn = torch.searchsorted(chances, points[:, None] * chances[:, -1:], right=True)[:, 0].clamp(
            max=logits.shape[1] - 1
        )
        y = drawn.to(y.device)
    return y[None], torch.ones_like(y[None], dtype=logits.dtype)
