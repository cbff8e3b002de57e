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
_SINGULAR = (
    "expected a matrix that can be inverted, got one that is singular with damping 0: infinitely many "
    "solutions, or none; raise damping above 0"
)


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
    preconditioner: Product | None = None,
    group: int = 1,
    block: int = 16384,
) -> Solution:
    """(C + damping I)^-1 v, where rows and columns of masked coordinates are struck out of C.

    - "cg": conjugate gradients (Hestenes and Stiefel 1952), for any product; C + damping I must be positive.
      Smoothed, so that the residual only falls (Zhou and Walker, SIAM J. Sci. Comput. 1994).
    - "woodfisher": (damping I + 1/N sum_n g_n g_n')^-1 v within each block, exactly, by N rank-one updates in
      double precision (Sherman-Morrison; Singh and Alistarh, WoodFisher, NeurIPS 2020). g_n is the gradient
      of row n at its own class, or the mean over the n-th ``group`` of rows, so the matrix is the empirical
      Fisher, not C, and entries between blocks are left out. It keeps F_{n-1}^-1 g_n for each n instead of
      the inverse: a block takes 2 N x ``block`` numbers.
    - "diagonal": v / (d + damping), d the diagonal of the GGN, which is the expected Fisher.

    Args:
        matrix: A ``Curvature``; for "cg" any function of vectors to vectors that is linear and symmetric.
        v: Parameter name to tensor.
        how: The solver.
        damping: Added to the diagonal, at least 0; above 0 for "woodfisher", which starts from it.
        masks: Name to a boolean tensor, True = kept.
        tolerance: "cg" stops at this relative residual.
        iterations: "cg" stops after so many steps; the residual says how far it came.
        preconditioner: An approximate inverse of C + damping I for "cg", as of ``low_rank``: linear,
            symmetric and positive. It changes how many steps are needed, not what the residual means.
        group: Rows averaged in one gradient of "woodfisher".
        block: Coordinates of one block of "woodfisher", in order of the names.

    Returns:
        The solution.

    Raises:
        DataError: There is no row, a row has no class, or the pass changed.
        NotFinite: v, a gradient or the solution is NaN or infinite; the parameter is named.
        UsageError: A knob makes no sense, no coordinate is left, the matrix is singular and not damped, it
            or the preconditioner has negative curvature in spite of damping.
    """
    if how not in get_args(How):
        raise UsageError(f'no solver is called "{how}", {nearest(how, get_args(How))}')
    if not (damping >= 0 and math.isfinite(damping)):
        raise UsageError(
            f"expected a finite damping of at least 0, got {damping}: it is added to every eigenvalue so "
            "that none is negative or zero"
        )
    if not tolerance >= 0:
        raise UsageError(
            f"expected a tolerance of at least 0, got {tolerance}: it is the residual at which to stop"
        )
    for name, knob in (("iterations", iterations), ("group", group), ("block", block)):
        if knob < 1:
            raise UsageError(f"expected {name} of at least 1, got {knob}: nothing would be solved")
    if isinstance(matrix, Curvature):
        check_shapes(v, choose(matrix.model, v))
    if preconditioner is not None and how != "cg":
        raise UsageError(
            f'expected how="cg" beside a preconditioner, got "{how}": only conjugate gradients take steps '
            "that it could spare; leave it out"
        )
    check_finite(v, "vector")
    flat = Flat(v, masks)
    right = flat.pack(v)
    if how == "cg":
        found = _cg(matrix, right, flat, damping, tolerance, iterations, preconditioner)
    elif not isinstance(matrix, Curvature):
        raise UsageError(
            f'expected a Curvature for how="{how}", got {type(matrix).__name__}: this solver needs gradients '
            'of rows, which a product does not show; take Curvature(model, batches), or how="cg"'
        )
    elif how == "diagonal":
        found = _diagonal(matrix, right, flat, damping)
    else:
        found = _woodfisher(matrix, right, flat, damping, group, block)
    check_finite(found.vector, "solution")
    return found


def _relative(left: Tensor, right: Tensor) -> float:
    size = float(right.double().norm())  # in single precision, small entries have no square
    return float((left - right).double().norm()) / size if size else 0.0


def _cg(
    product: Product,
    right: Tensor,
    flat: Flat,
    damping: float,
    tolerance: float,
    iterations: int,
    preconditioner: Product | None,
) -> Solution:
    def times(vector: Tensor) -> Tensor:
        found = flat.pack(product(flat.unpack(vector))) + damping * vector
        if not bool(found.isfinite().all()):
            raise NotFinite(
                "expected a finite product, got NaN or infinity: the solution would be neither; look for "
                "infinite weights, or raise damping"
            )
        return found

    def eased(residual: Tensor) -> tuple[Tensor, float]:
        """What the preconditioner makes of a residual, and its height: residual' P residual."""
        if preconditioner is None:
            return residual, float(residual.dot(residual))
        found = flat.pack(preconditioner(flat.unpack(residual)))
        height = float(residual.dot(found))
        if not height > 0 and bool(residual.any()):
            raise UsageError(
                f"expected a positive preconditioner, got {height:.3g} for a residual with itself: conjugate "
                "gradients would walk uphill; build it with more damping, or leave it out"
            )
        return found, height

    scale = float(right.abs().max())
    if not scale:
        return Solution(flat.unpack(right), 0.0, 0)
    right = right / scale  # squares neither overflow nor vanish
    size, noise = float(right.norm()), 100 * torch.finfo(right.dtype).eps
    u, residual = torch.zeros_like(right), right
    direction, square = eased(residual)
    smooth, left = u, residual
    best, reached = u, 1.0  # of those that were measured
    largest, steps = 0.0, 0
    while True:
        image = times(direction)
        length = float(direction.norm())
        largest = max(largest, float(image.norm()) / length)
        bend = float(direction.dot(image))
        steepness = bend / length**2
        if steepness < -noise * largest:
            raise UsageError(
                f"expected a positive matrix, got negative curvature {steepness:.3g} (damping {damping:g} "
                "included): conjugate gradients would walk uphill; take the GGN, which has none, or raise "
                "damping"
            )
        if steepness <= noise * largest and not damping:
            raise UsageError(_SINGULAR)
        lost = steepness <= min(noise * largest, damping / 2)  # a positive matrix shows less only by rounding
        if not lost:
            step, steps = square / bend, steps + 1
            u, residual = u + step * direction, residual - step * image
            gap = residual - left
            move = -float(left.dot(gap)) / (float(gap.dot(gap)) or 1.0)
            smooth, left = smooth + move * (u - smooth), left + move * gap
            if steps < iterations and float(left.norm()) > tolerance * size:
                before = square
                steep, square = eased(residual)
                direction = steep + (square / before) * direction
                continue
        residual = right - times(smooth)  # the recursion's gathers rounding errors
        true = float(residual.norm()) / size
        over = lost or steps >= iterations or true <= tolerance or true > reached / 2
        if true < reached:
            best, reached = smooth, true
        if over:
            return Solution(flat.unpack(best * scale), reached, steps)
        u, left = smooth, residual
        direction, square = eased(residual)


def _diagonal(matrix: Curvature, right: Tensor, flat: Flat, damping: float) -> Solution:
    entries = diagonal_fisher(
        matrix.model, matrix.rows, kind="expected", names=flat.places, budget=matrix.budget
    )
    d = flat.pack(entries) + damping
    if not bool((d > 0).all()):
        raise UsageError(_SINGULAR)
    u = right / d
    return Solution(flat.unpack(u), _relative(d * u, right), 1)


def _woodfisher(
    matrix: Curvature, right: Tensor, flat: Flat, damping: float, group: int, block: int
) -> Solution:
    if not damping:
        raise UsageError(_SINGULAR)
    count, wide = -(-matrix.rows.rows // group), min(block, len(flat))
    needs = 8 * 2 * count * wide
    if needs > matrix.budget:
        raise UsageError(
            f"expected blocks that fit a budget of {matrix.budget} bytes, got {needs} bytes for {count} "
            f"gradients of {wide} coordinates: they are held together; average more rows (group), take fewer "
            "rows, or smaller blocks"
        )
    u, wanted = torch.empty_like(right), right.double()
    found = torch.empty_like(wanted)
    together = max(1, (matrix.budget // 2) // needs) * block
    for first, last in blocks(len(flat), together):
        gradients = _collect(matrix, flat, first, last, count, group)
        for start, stop in blocks(last - first, block):
            g, at = gradients[:, start:stop], slice(first + start, first + stop)
            u[at] = rank_one_solve(g, wanted[at], damping)
            rounded = u[at].double()
            found[at] = damping * rounded + (g @ rounded) @ g / count
    return Solution(flat.unpack(u), _relative(found, wanted), count)


def _collect(matrix: Curvature, flat: Flat, first: int, last: int, count: int, group: int) -> Tensor:
    """Gradients [count, last - first] of groups of consecutive rows, however these come in chunks."""
    cut = dict(flat.cut(first, last))
    device = next(iter(cut.values())).device
    sums = torch.zeros(count, last - first, dtype=torch.float64, device=device)
    seen = 0
    for found in sample_gradients(matrix.model, matrix.rows, names=cut, budget=matrix.budget // 2):
        rows = torch.cat([found[name].flatten(1)[:, place] for name, place in cut.items()], 1).double()
        owner = torch.arange(seen, seen + len(rows), device=device) // group
        sums.index_add_(0, owner.clamp(max=count - 1), rows)  # of more rows, the pass complains at its end
        seen += len(rows)
    sizes = torch.full((count, 1), group, dtype=sums.dtype, device=device)
    sizes[-1] = seen - group * (count - 1)
    return sums.div_(sizes)


def rank_one_solve(gradients: Tensor, v: Tensor, damping: float) -> Tensor:
    """(damping I + 1/N sum_n g_n g_n')^-1 v by N rank-one updates, without forming the inverse.

    F_0 = damping I, o_n = F_{n-1}^-1 g_n, and F_n^-1 = F_{n-1}^-1 - o_n o_n' / (N + g_n' o_n): what F_n^-1
    does to a vector is to divide it by damping and take away what each o so far does. The os before a panel
    are applied to all of the panel at once, which is the same sum in another order.

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
        panel, done = gradients[start : start + _PANEL], os[:start]
        images = panel / damping - ((panel @ done.T) / scales[:start]) @ done
        for n, (g, o) in enumerate(zip(panel, images, strict=True), start):
            within = slice(start, n)
            os[n] = o - ((os[within] @ g) / scales[within]) @ os[within]
            scales[n] = count + g.dot(os[n])
            u = u - os[n] * (g.dot(u) / scales[n])
    return u
