"""The Hessian and the generalised Gauss-Newton matrix, as things that multiply."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.errors import UsageError, nearest
from secateur.maths.curvature.model import (
    BUDGET,
    check_finite,
    check_logits,
    choose,
    logits_of,
    row_bytes,
    rows_in,
)
from secateur.maths.curvature.passes import Batches, Pass, Rows, split

Vectors = Mapping[str, Tensor]
Product = Callable[[Vectors], dict[str, Tensor]]
Matrix = Literal["ggn", "hessian"]
_COPIES = {"hessian": 5, "ggn": 4}  # of what one forward pass keeps


def hessian_product(
    model: nn.Module, batches: Batches | Pass, vectors: Vectors, *, budget: int = BUDGET
) -> dict[str, Tensor]:
    """H v, with H the Hessian of the mean cross-entropy over all rows, in nats (Pearlmutter 1994).

    H v = d/dw (g(w)' v), differentiated twice in reverse; H may have negative eigenvalues.

    Args:
        model: Returns logits [b, classes]; not changed.
        batches: The rows: a list of chunks, a function that starts a pass over them, or a ``Pass``, which
            checks from product to product that its rows stay the same.
        vectors: Parameter name to a tensor of its shape; H is that of these parameters.
        budget: Bytes of memory: chunks are cut so that they fit, never joined.

    Returns:
        Name to H v.

    Raises:
        DataError: There is no row, a row has no class, or the pass changed.
        NotFinite: The product is NaN or infinite; the parameter is named.
        UsageError: There is no parameter to update, or batch norm is in training mode.
    """
    return _product(model, batches, vectors, "hessian", budget)


def ggn_product(
    model: nn.Module, batches: Batches | Pass, vectors: Vectors, *, budget: int = BUDGET
) -> dict[str, Tensor]:
    """G v, with G = 1/n sum_i J_i' (diag(p_i) - p_i p_i') J_i, never negative (Schraudolph 2002).

    J_i is the derivative of row i's logits and p_i its probabilities, so G is the Hessian of the mean
    cross-entropy without the curvature of the network, and the Fisher information of the model's own classes.

    Args:
        model: As for ``hessian_product``.
        batches: As for ``hessian_product``; y is not looked at.
        vectors: As for ``hessian_product``.
        budget: As for ``hessian_product``.

    Returns:
        Name to G v.

    Raises:
        DataError: As for ``hessian_product``.
        NotFinite: As for ``hessian_product``.
        UsageError: As for ``hessian_product``.
    """
    return _product(model, batches, vectors, "ggn", budget)


@dataclass(frozen=True)
class Curvature:
    """A matrix of the mean cross-entropy over a fixed pass; called with vectors, it multiplies them.

    Args:
        model: Returns logits [b, classes].
        batches: The rows, as for ``hessian_product``; every pass is compared with the first.
        kind: "ggn" or "hessian".
        budget: Bytes of memory.
    """

    model: nn.Module
    batches: Batches | Pass
    kind: Matrix = "ggn"
    budget: int = BUDGET
    rows: Pass = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Matrix):
            raise UsageError(f'no curvature is called "{self.kind}", {nearest(self.kind, get_args(Matrix))}')
        object.__setattr__(self, "rows", as_pass(self.batches))

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """C v, without damping."""
        return _product(self.model, self.rows, vectors, self.kind, self.budget)


def as_pass(batches: Batches | Pass) -> Pass:
    """These rows, watched."""
    return batches if isinstance(batches, Pass) else Pass(batches)


def _product(
    model: nn.Module, batches: Batches | Pass, vectors: Vectors, kind: Matrix, budget: float
) -> dict[str, Tensor]:
    weights = choose(model, vectors)
    check_shapes(vectors, weights)
    sums = {name: torch.zeros_like(w) for name, w in weights.items()}
    size, rows = 0, 0
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for chunk in as_pass(batches):
            if not size:
                size = rows_in(budget, _COPIES[kind] * row_bytes(model, weights, chunk[0]))
            for x, y in split(chunk, size):
                free = {name: w.requires_grad_() for name, w in weights.items()}
                for name, part in zip(free, _sums(model, free, x, y, vectors, kind), strict=True):
                    sums[name] += part
                rows += len(y)
    check_finite(sums, "product")
    return {name: value / rows for name, value in sums.items()}


def _sums(
    model: nn.Module, free: Mapping[str, Tensor], x: Rows, y: Tensor, vectors: Vectors, kind: Matrix
) -> Iterable[Tensor]:
    """The product of a chunk's summed curvature."""
    logits = logits_of(model, free, x)
    check_logits(logits, y)
    leaves, along = list(free.values()), [vectors[name] for name in free]
    if not logits.requires_grad:  # none of these leads to a logit
        return [torch.zeros_like(w) for w in leaves]
    if kind == "hessian":
        loss = functional.cross_entropy(logits, y, reduction="sum")
        slopes = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        dot = torch.stack([(g * v).sum() for g, v in zip(slopes, along, strict=True)]).sum()
        if not dot.requires_grad:
            return [torch.zeros_like(w) for w in leaves]
        return torch.autograd.grad(dot, leaves, materialize_grads=True)
    try:
        pushed = _push(model, free, x, vectors)
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error) and "jvp" not in str(error):
            raise
        pushed = _push_in_reverse(logits, leaves, along)
    p = logits.detach().softmax(1)
    bent = p * (pushed - (p * pushed).sum(1, keepdim=True))
    return torch.autograd.grad(logits, leaves, bent, materialize_grads=True)


_dual: Callable[[Tensor, Tensor], Tensor] = forward_ad.make_dual


def _tangent(dual: Tensor) -> Tensor | None:
    pair: tuple[Tensor, Tensor | None] = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return pair[1]


def _push(model: nn.Module, weights: Vectors, x: Rows, vectors: Vectors) -> Tensor:
    """J v [b, classes] in forward mode, in half the time of two passes in reverse."""
    with torch.no_grad(), forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of the torch.jit that it uses
        dual = {name: _dual(w.detach(), vectors[name]) for name, w in weights.items()}
        tangent = _tangent(logits_of(model, dual, x))
        return torch.zeros_like(logits_of(model, weights, x)) if tangent is None else tangent


def _push_in_reverse(logits: Tensor, leaves: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    """J v where an operation has no forward mode: J' u is linear in u, and its slope in u along v is J v."""
    dummy = torch.zeros_like(logits, requires_grad=True)
    pulled = torch.autograd.grad(logits, leaves, dummy, create_graph=True, materialize_grads=True)
    dot = torch.stack([(g * v).sum() for g, v in zip(pulled, along, strict=True)]).sum()
    return torch.autograd.grad(dot, dummy, materialize_grads=True)[0]


def check_shapes(vectors: Vectors, weights: Mapping[str, Tensor]) -> None:
    """Check that vectors are shaped like parameters.

    Args:
        vectors: Name to tensor.
        weights: Name to parameter.

    Raises:
        UsageError: One is not.
    """
    for name, weight in weights.items():
        if vectors[name].shape != weight.shape:
            raise UsageError(
                f'expected a vector of shape {tuple(weight.shape)} for "{name}", got '
                f"{tuple(vectors[name].shape)}: it multiplies that parameter entry by entry; reshape it"
            )
