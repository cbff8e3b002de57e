"""(C + damping I) u = v over the unmasked coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.errors import NotFinite, UsageError, nearest
from secateur.maths.curvature.fisher import diagonal_fisher
from secateur.maths.curvature.flat import Flat, blocks
from secateur.maths.curvature.model import check_finite, choose
from secateur.maths.curvature.products import Curvature, Product, Vectors, check_shapes
from secateur.maths.curvature.samples import sample_gradients

How = Literal["cg", "woodfisher", "diagonal"]
_PANEL = 32  # rank-one updates that are applied together


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        vector: Name to u; masked coordinates are exactly +0.0.
        residual: ||(A + damping I) u - v|| / ||v||, with A the matrix that the solver inverts: C itself for
            "cg", where it is measured by one more product; what it takes for C in the others.
        iterations: Steps of conjugate gradients, rank-one updates, or 1 for the diagonal.
    """

    vector: dict[str, Tensor]
    residual: float
    iterations: int


def solve(
    matrix: Curvature | Product,
    v: Vectors,
    *,
    how: How = "cg",
    damping: float,
    masks: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-3,
    iterations: int = 100,
    group: int = 1,
    block: int = 16384,
) -> Solution:
    """(C + damping I)^-1 v, where rows and columns of masked coordinates are struck out of C.

    - "cg": conjugate gradients (Hestenes and Stiefel 1952), for any product; C + damping I must be positive.
    - "woodfisher": (damping I + 1/N sum_n g_n g_n')^-1 v within each block, exactly, by N rank-one updates
      (Sherman-Morrison; Singh and Alistarh, WoodFisher, NeurIPS 2020). g_n is the gradient of row n at its
      own class, or the mean over the n-th ``group`` of rows, so the matrix is the empirical Fisher, not C,
      and entries between blocks are left out. It keeps F_{n-1}^-1 g_n for each n instead of the inverse:
      a block takes 2 N x ``block`` numbers, and u costs N^2 x coordinates whatever the block.
    - "diagonal": v / (d + damping), d the diagonal of the GGN, which is the expected Fisher.

    Args:
        matrix: A ``Curvature``; for "cg" any function of vectors to vectors that is linear and symmetric.
        v: Parameter name to tensor.
        how: The solver.
        damping: Added to the diagonal, at least 0; above 0 for "woodfisher", which starts from it.
        masks: Name to a boolean tensor, True = kept.
        tolerance: "cg" stops at this relative residual.
        iterations: "cg" stops after so many steps; the residual says how far it came.
        group: Rows averaged in one gradient of "woodfisher".
        block: Coordinates of one block of "woodfisher", in order of the names.

    Returns:
        The solution.

    Raises:
        DataError: There is no row, a row has no class, or the pass changed.
        NotFinite: v, or a gradient, is NaN or infinite; the parameter is named.
        UsageError: A knob makes no sense, no coordinate is left, the matrix is singular and not damped, or it
            has negative curvature.
    """
    if how not in get_args(How):
        raise UsageError(f'no solver is called "{how}", {nearest(how, get_args(How))}')
    if not (damping >= 0 and math.isfinite(damping)):
        raise UsageError(
            f"expected a finite damping of at least 0, got {damping}: it is added to every eigenvalue so "
            "that none is negative or zero"
        )
    for name, knob in (("iterations", iterations), ("group", group), ("block", block)):
        if knob < 1:
            raise UsageError(f"expected {name} of at least 1, got {knob}: nothing would be solved")
    if isinstance(matrix, Curvature):
        check_shapes(v, choose(matrix.model, v))
    check_finite(v, "vector")
    flat = Flat(v, masks)
    right = flat.pack(v)
    if how == "cg":
        return _cg(matrix, right, flat, damping, tolerance, iterations)
    if not isinstance(matrix, Curvature):
        raise UsageError(
            f'expected a Curvature for how="{how}", got {type(matrix).__name__}: this solver needs gradients '
            'of rows, which a product does not show; take Curvature(model, batches), or how="cg"'
        )
    if how == "diagonal":
        return _diagonal(matrix, right, flat, damping)
    return _woodfisher(matrix, right, flat, damping, group, block)


def _relative(left: Tensor, right: Tensor) -> float:
    size = float(right.norm())
    return float((left - right).norm()) / size if size else 0.0


def _cg(
    product: Product, right: Tensor, flat: Flat, damping: float, tolerance: float, iterations: int
) -> Solution:
    def times(vector: Tensor) -> Tensor:
        found = flat.pack(product(flat.unpack(vector))) + damping * vector
        if not bool(found.isfinite().all()):
            raise NotFinite(
                "expected a finite product, got NaN or infinity: the solution would be neither; look for "
                "infinite weights, or raise damping"
            )
        return found

    size, u, residual = float(right.norm()), torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), float(residual.dot(residual))
    noise = 100 * torch.finfo(right.dtype).eps
    largest, best, steps, reached = 0.0, math.inf, 0, 1.0 if size else 0.0
    while size and steps < iterations:
        image = times(direction)
        bend, length = float(direction.dot(image)), float(direction.dot(direction))
        largest = max(largest, float(image.norm()) / math.sqrt(length))
        steepness = bend / length
        if steepness <= noise * largest:
            raise UsageError(_bent(steepness, steepness < -noise * largest, damping))
        step = square / bend
        u += step * direction
        residual -= step * image
        before, square = square, float(residual.dot(residual))
        steps += 1
        if math.sqrt(square) <= tolerance * size or steps == iterations:
            residual = right - times(u)  # the one above gathers rounding errors
            square = float(residual.dot(residual))
            reached = math.sqrt(square) / size
            if reached <= tolerance or reached > best / 2:
                break
            best, direction = reached, residual.clone()
            continue
        direction = residual + (square / before) * direction
    return Solution(flat.unpack(u), reached, steps)


def _bent(steepness: float, negative: bool, damping: float) -> str:
    if negative:
        return (
            f"expected a positive matrix, got negative curvature {steepness:.3g} (damping {damping:g} "
            "included): conjugate gradients would walk uphill; take the GGN, which has none, or raise damping"
        )
    return (
        f"expected a matrix that can be inverted, got one that is singular with damping {damping:g}: "
        "infinitely many solutions, or none; raise damping above 0"
    )


def _diagonal(matrix: Curvature, right: Tensor, flat: Flat, damping: float) -> Solution:
    entries = diagonal_fisher(
        matrix.model, matrix.rows, kind="expected", names=flat.places, budget=matrix.budget
    )
    d = flat.pack(entries) + damping
    if not bool((d > 0).all()):
        raise UsageError(_bent(0.0, False, damping))
    u = right / d
    check_finite(flat.unpack(u), "quotient")
    return Solution(flat.unpack(u), _relative(d * u, right), 1)


def _woodfisher(
    matrix: Curvature, right: Tensor, flat: Flat, damping: float, group: int, block: int
) -> Solution:
    if damping == 0:
        raise UsageError(_bent(0.0, False, damping))
    count = -(-matrix.rows.rows // group)
    needs = 2 * count * min(block, len(flat)) * right.element_size()
    if needs > matrix.budget:
        raise UsageError(
            f"expected blocks that fit a budget of {matrix.budget} bytes, got {needs} bytes for {count} "
            f"gradients of {block} coordinates: average more rows (group), take fewer rows, or smaller blocks"
        )
    u, missed = torch.empty_like(right), torch.tensor(0.0, dtype=right.dtype, device=right.device)
    together = max(1, (matrix.budget // 2) // needs) * block
    for first, last in blocks(len(flat), together):
        gradients = _collect(matrix, flat, first, last, count, group)
        for start, stop in blocks(last - first, block):
            g, part = gradients[:, start:stop], right[first + start : first + stop]
            found = rank_one_solve(g, part, damping)
            u[first + start : first + stop] = found
            missed += (damping * found + (g @ found) @ g / count - part).square().sum()
    size = float(right.norm())
    return Solution(flat.unpack(u), float(missed.sqrt()) / size if size else 0.0, count)


def _collect(matrix: Curvature, flat: Flat, first: int, last: int, count: int, group: int) -> Tensor:
    """Gradients [count, last - first] of groups of consecutive rows, however these come in chunks."""
    cut = dict(flat.cut(first, last))
    like = next(matrix.model.get_parameter(name) for name in cut)
    sums = torch.zeros(count, last - first, dtype=like.dtype, device=like.device)
    seen = 0
    for found in sample_gradients(matrix.model, matrix.rows, names=cut, budget=matrix.budget // 2):
        rows = torch.cat([found[name].flatten(1)[:, place] for name, place in cut.items()], 1)
        owner = torch.arange(seen, seen + len(rows), device=rows.device) // group
        sums.index_add_(0, owner.clamp(max=count - 1), rows)  # of more rows, the pass complains at its end
        seen += len(rows)
    sizes = torch.full((count, 1), group, dtype=sums.dtype, device=sums.device)
    sizes[-1] = seen - group * (count - 1)
    return sums.div_(sizes)


def rank_one_solve(gradients: Tensor, v: Tensor, damping: float) -> Tensor:
    """(damping I + 1/N sum_n g_n g_n')^-1 v by N rank-one updates.

    With F_0 = damping I, o_n = F_{n-1}^-1 g_n and F_n^-1 = F_{n-1}^-1 - o_n o_n' / (N + g_n' o_n): F_n^-1
    applied to anything is that over damping, less what each o so far takes away. The os before a panel are
    applied to all of the panel at once, which is the same sum in another order.

    Args:
        gradients: [N, m].
        v: [m].
        damping: Above 0.

    Returns:
        [m].
    """
    count = len(gradients)
    os, scales = torch.empty_like(gradients), gradients.new_empty(count)
    u = v / damping
    for start in range(0, count, _PANEL):
        panel = gradients[start : start + _PANEL]
        done, weights = os[:start], scales[:start]
        images = panel / damping - ((panel @ done.T) / weights) @ done
        for i in range(len(panel)):
            n = start + i
            within = os[start:n]
            o = images[i] - ((within @ panel[i]) / scales[start:n]) @ within
            os[n], scales[n] = o, count + panel[i].dot(o)
            u = u - o * (panel[i].dot(u) / scales[n])
    return u
