"""The top of a spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from secateur.errors import NotFinite, UsageError
from secateur.maths.curvature.flat import Flat
from secateur.maths.curvature.products import Product, Vectors


@dataclass(frozen=True)
class Eigenvalue:
    """The eigenvalue of largest magnitude, as far as it was found.

    Attributes:
        value: With its sign; its magnitude is the largest singular value.
        residual: ||A x - value x|| for the unit vector x found, at least the rounding of the type: some
            eigenvalue lies within it of ``value``.
        iterations: Products taken.
    """

    value: float
    residual: float
    iterations: int


def top_eigenvalue(
    product: Product,
    like: Vectors,
    *,
    masks: Mapping[str, Tensor] | None = None,
    rng: Generator,
    iterations: int = 50,
    tolerance: float = 1e-3,
) -> Eigenvalue:
    """The eigenvalue of largest magnitude, by Lanczos with full reorthogonalisation (Lanczos 1950).

    Of the Hessian over unmasked weights its magnitude is sigma(m) of Jia et al., NeurIPS 2023. Keeps
    ``iterations`` vectors; without reorthogonalisation, copies of the top would be found again and again.

    Args:
        product: Vectors to vectors, linear and symmetric.
        like: Parameter name to a tensor of its shape, type and device; the values do not matter.
        masks: Name to a boolean tensor, True = kept; rows and columns of the others are struck out.
        rng: A CPU generator, for the start.
        iterations: Products at most.
        tolerance: Stop at residual <= tolerance * |value|.

    Returns:
        The value with its residual.

    Raises:
        NotFinite: A product is NaN or infinite.
        UsageError: No coordinate is left, or a knob makes no sense.
    """
    if iterations < 1:
        raise UsageError(
            f"expected at least 1 iteration, got {iterations}: nothing is known before the first"
        )
    flat = Flat(like, masks)
    first = flat.pack(like)
    start = torch.randn(len(flat), generator=rng, dtype=torch.float64).to(first)
    basis = torch.empty(min(iterations, len(flat)), len(flat), dtype=first.dtype, device=first.device)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    value, residual, eps = 0.0, math.inf, torch.finfo(first.dtype).eps
    for k in range(len(basis)):
        image = flat.pack(product(flat.unpack(basis[k])))
        if not bool(image.isfinite().all()):
            raise NotFinite("expected a finite product, got NaN or infinity: it has no eigenvalues")
        diagonal.append(float(basis[k].dot(image)))
        for _ in range(2):  # once leaves what rounding took from the first removal
            image = image - (basis[: k + 1] @ image) @ basis[: k + 1]
        beta = float(image.norm())
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            side = torch.tensor(beside, dtype=torch.float64)
            small = small + torch.diag(side, 1) + torch.diag(side, -1)
        values, vectors = torch.linalg.eigh(small)
        top = int(values.abs().argmax())
        value, residual = float(values[top]), beta * abs(float(vectors[-1, top]))
        scale = float(values.abs().max())
        closed = beta <= 100 * eps * scale  # all that the start can see
        if closed or residual <= tolerance * abs(value) or k + 1 == len(basis):
            break
        beside.append(beta)
        basis[k + 1] = image / beta
    return Eigenvalue(value, max(residual, eps * scale), len(diagonal))
