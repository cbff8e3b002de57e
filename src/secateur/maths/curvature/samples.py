"""The gradient of each row, for any module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.maths.curvature.model import (
    BUDGET,
    agreeing,
    check_classes,
    check_finite,
    choose,
    error_signal,
    logits_of,
    look,
    probe_signal,
    pull,
    rows_in,
)
from secateur.maths.curvature.passes import Batches, Chunk, Pass, Rows, once, row_slice, split

Signals = Callable[[Tensor, Tensor], Tensor]
_PROBES = 2


def sample_gradients(
    model: nn.Module,
    batches: Batches | Pass | Iterable[Chunk],
    *,
    names: Iterable[str] | None = None,
    budget: int = BUDGET,
) -> Iterator[dict[str, Tensor]]:
    """The gradient of each row's cross-entropy at its own class, in nats per unit of weight.

    By ``torch.func``, or row by row where it cannot follow the model.

    Args:
        model: Returns logits [b, classes]; not changed.
        batches: Tuples that begin with x and y, or a function that starts a pass over them; one is taken.
        names: Which parameters; None: those that require gradients.
        budget: Bytes of memory: chunks are cut so that they fit, never joined.

    Yields:
        Name to gradients [b, *shape], rows in the order in which they came.

    Raises:
        DataError: There is no row, or a row has no class.
        NotFinite: A gradient is NaN or infinite; the parameter is named.
        UsageError: There is no parameter to update, batch norm is in training mode, or the model is random.
    """
    weights = choose(model, names)
    gradients = None
    for chunk in once(batches):
        gradients = gradients or RowGradients(model, weights, chunk[0])
        for x, y in split(chunk, gradients.rows_in(budget, 1)):
            check_classes(gradients.logits, y)
            found = {
                name: value[:, 0]
                for name, value in gradients(x, y, lambda z, c: error_signal(z, c[None])).items()
            }
            check_finite(found)
            yield found


class RowGradients:
    """Gradients of rows one at a time: by ``vmap``, unless it fails or errs on the first of them.

    It refuses control flow and old autograd functions, and has had wrong batching rules.

    Args:
        model: Rows do not look at one another.
        weights: The parameters, detached.
        x: Some rows.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], x: Rows) -> None:
        self.model, self.weights = model, weights
        self._row_bytes = look(model, weights, x)
        with torch.no_grad():
            self.logits = logits_of(model, weights, row_slice(x, slice(0, 1)))
        few = row_slice(x, slice(0, _PROBES))
        count = len(few if isinstance(few, Tensor) else next(iter(few.values())))
        signals = probe_signal(self.logits.expand(2 * count, -1)).view(count, 2, -1)
        self._way: Callable[[Rows, Tensor, Signals], dict[str, Tensor]] = self._loop
        true = self(few, signals, given)
        self._way = self._vmap
        try:
            found = self(few, signals, given)
        except (RuntimeError, ValueError, TypeError):
            found = {}
        if agreeing(found, true) != true.keys():
            self._way = self._loop

    def rows_in(self, budget: float, directions: int) -> int:
        """How many rows fit into a budget of bytes."""
        size = sum(w.nbytes for w in self.weights.values())
        return rows_in(budget, (1 + directions) * self._row_bytes + 3 * directions * size)

    def __call__(self, x: Rows, extra: Tensor, signals: Signals) -> dict[str, Tensor]:
        """Gradients.

        Args:
            x: [b, ...].
            extra: [b, ...], whatever else the signals need.
            signals: From a row's logits [1, classes] and its extra to gradients in them, [k, classes].

        Returns:
            Name to gradients [b, k, *shape].
        """
        # vmap knows no fused attention, and warns where it is slow, which is still faster than the loop
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            return self._way(x, extra, signals)

    def _vmap(self, x: Rows, extra: Tensor, signals: Signals) -> dict[str, Tensor]:
        def one(row: Rows, its: Tensor) -> dict[str, Tensor]:
            alone = (
                row[None] if isinstance(row, Tensor) else {name: value[None] for name, value in row.items()}
            )
            logits, back, *_ = vjp(lambda w: logits_of(self.model, w, alone), dict(self.weights))
            found = [back(signal[None])[0] for signal in signals(logits, its)]
            return {name: torch.stack([part[name] for part in found]) for name in self.weights}

        return dict(vmap(one)(x, extra))

    def _loop(self, x: Rows, extra: Tensor, signals: Signals) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {name: [] for name in self.weights}
        for i, its in enumerate(extra):
            free = {name: w.detach().requires_grad_() for name, w in self.weights.items()}
            with torch.enable_grad():
                logits = logits_of(self.model, free, row_slice(x, slice(i, i + 1)))
            slopes = signals(logits.detach(), its)
            parts = [pull(logits, free, slope[None], keep=True) for slope in slopes]
            for name, rows in found.items():
                rows.append(torch.stack([part[name] for part in parts]))
        return {name: torch.stack(rows) for name, rows in found.items()}


def given(logits: Tensor, signals: Tensor) -> Tensor:
    """Signals that are known already."""
    return signals
