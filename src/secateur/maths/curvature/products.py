"""The Hessian and the generalised Gauss-Newton matrix, as things that multiply."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.errors import UsageError, nearest
from secateur.maths.curvature.mean import mean_over_rows
from secateur.maths.curvature.model import BUDGET, check_classes, choose, error_signal, logits_of, pull
from secateur.maths.curvature.passes import Batches, Pass, Rows

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
        UsageError: There is no parameter to update, batch norm is in training mode, or the model is random.
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

    def part(free: Mapping[str, Tensor], x: Rows, y: Tensor) -> dict[str, Tensor]:
        if kind == "ggn":
            return _bent(model, free, x, y, vectors)
        logits = logits_of(model, free, x)
        check_classes(logits, y)
        slopes = pull(logits, free, error_signal(logits, y), graph=True)
        return pull(_dot(slopes, vectors), free)

    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        return mean_over_rows(model, weights, as_pass(batches), part, budget / _COPIES[kind], "product")


def _dot(left: Vectors, right: Vectors) -> Tensor:
    return torch.stack([(value * right[name]).sum() for name, value in left.items()]).sum()


def _bent(model: nn.Module, free: Vectors, x: Rows, y: Tensor, vectors: Vectors) -> dict[str, Tensor]:
    """J' (diag(p) - p p') J v, summed over rows."""

    def back(logits: Tensor, pushed: Tensor) -> tuple[dict[str, Tensor], float]:
        # only differences count; from the likeliest class a confident model keeps its digits
        p = logits.detach().softmax(1)
        pushed = pushed - pushed.gather(1, p.argmax(1, keepdim=True))
        bent = p * (pushed - (p * pushed).sum(1, keepdim=True))
        return pull(logits, free, bent), float((pushed * bent).sum())

    def in_reverse() -> dict[str, Tensor]:
        logits = logits_of(model, free, x)
        check_classes(logits, y)
        return back(logits, _push_in_reverse(logits, free, vectors))[0]

    try:
        logits, pushed = _push(model, free, x, vectors)
        check_classes(logits, y)
        found, height = back(logits, pushed)
    except (
        NotImplementedError,
        RuntimeError,
    ):  # some operation has only a backward pass: torch raises either
        return in_reverse()
    # v' (J' b) = (J v)' b, unless forward mode sees more than reverse does: it ignores torch.no_grad()
    size = math.sqrt(float(_dot(found, found)) * float(_dot(vectors, vectors)))
    eps = torch.finfo(logits.dtype).eps
    if abs(float(_dot(found, vectors)) - height) > math.sqrt(eps) * height + 100 * eps * size:
        return in_reverse()
    return found


def _push(model: nn.Module, free: Vectors, x: Rows, vectors: Vectors) -> tuple[Tensor, Tensor]:
    """Logits [b, classes] with their graph, and J v in forward mode, by one pass in place of three."""
    with forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of the torch.jit that it uses
        dual = {name: forward_ad.make_dual(w, vectors[name]) for name, w in free.items()}  # type: ignore[no-untyped-call]
        logits, tangent = forward_ad.unpack_dual(logits_of(model, dual, x))  # type: ignore[no-untyped-call]
        # the tangent has a graph of its own, which nothing asks for
        return logits, torch.zeros_like(logits) if tangent is None else tangent.detach()


def _push_in_reverse(logits: Tensor, free: Vectors, vectors: Vectors) -> Tensor:
    """J v in reverse: J' u is linear in u, and its slope in u along v is J v."""
    u = torch.zeros_like(logits, requires_grad=True)
    return pull(_dot(pull(logits, free, u, graph=True), vectors), {"u": u})["u"]


def check_shapes(vectors: Vectors, weights: Mapping[str, Tensor]) -> None:
    """Check that vectors are of the shapes and types of parameters.

    Args:
        vectors: Name to tensor.
        weights: Name to parameter.

    Raises:
        UsageError: One is not.
    """
    for name, weight in weights.items():
        vector = vectors[name]
        if vector.shape != weight.shape or vector.dtype != weight.dtype:
            raise UsageError(
                f'expected a vector of shape {tuple(weight.shape)} and {weight.dtype} for "{name}", got '
                f"{tuple(vector.shape)} and {vector.dtype}: it multiplies that parameter entry by entry; "
                "reshape or convert it"
            )
