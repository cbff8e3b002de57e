"""What makes conjugate gradients need fewer products: an approximate inverse, from gradients of some rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from secateur.errors import UsageError
from secateur.maths.curvature.flat import Flat, blocks
from secateur.maths.curvature.model import check_finite, choose
from secateur.maths.curvature.passes import split
from secateur.maths.curvature.products import Curvature, Product, Vectors
from secateur.maths.curvature.samples import RowGradients

_BLOCK = 16384  # coordinates that are multiplied in the type of the weights


def low_rank(
    matrix: Curvature,
    *,
    rank: int,
    damping: float,
    rng: Generator,
    masks: Mapping[str, Tensor] | None = None,
) -> Product:
    """(1/k sum_i g_i g_i' + damping I)^-1, with g_i of ``k`` rows of the matrix, as a preconditioner.

    g_i = J_i' (diag(r) - p_i r') e with r the square root of p_i and e random signs, one for each class: its
    square is that row's share of the GGN in expectation, even where the model is all but sure of its class
    (which a drawn class would then nearly always be). Inverted by Woodbury's identity, in k dimensions.

    Args:
        matrix: The rows and their model; of the GGN, or of a Hessian that it is like.
        rank: How many rows, drawn at random; of fewer, all.
        damping: As handed to ``solve``, above 0.
        rng: A CPU generator.
        masks: As handed to ``solve``.

    Returns:
        A function of vectors, named as the parameters that require gradients; hand it to ``solve``. It keeps
        ``rank`` gradients of unmasked coordinates.

    Raises:
        DataError: There is no row, or the pass changed.
        NotFinite: A gradient is NaN or infinite; the parameter is named.
        UsageError: The gradients do not fit the matrix's budget, or ``rank`` or ``damping`` is not above 0.
    """
    if rank < 1 or not damping > 0:
        raise UsageError(
            f"expected a rank of at least 1 and a damping above 0, got {rank} and {damping}: without either "
            "there is nothing to invert; raise them, or solve without a preconditioner"
        )
    weights = choose(matrix.model, None)
    flat = Flat(weights, masks)
    rank = min(rank, matrix.rows.rows)
    needs = rank * len(flat) * next(iter(weights.values())).element_size()
    if needs > matrix.budget:
        raise UsageError(
            f"expected gradients that fit a budget of {matrix.budget} bytes, got {needs} bytes for {rank} "
            f"rows of {len(flat)} coordinates: they are held together; take a rank of at most "
            f"{matrix.budget * rank // needs}"
        )
    gradients = _gradients(matrix, weights, flat, rank, rng)
    gram = _gram(gradients)
    # a preconditioner may err, not turn negative: beyond single precision it is that of a larger damping
    highest = float(torch.linalg.eigvalsh(gram)[-1])
    shift = max(damping, 100 * torch.finfo(gradients.dtype).eps * highest)
    gram.diagonal().add_(shift)
    factor = torch.linalg.cholesky(gram)

    def product(vectors: Vectors) -> dict[str, Tensor]:
        right = flat.pack(vectors)
        inner = torch.cholesky_solve((gradients @ right).double()[:, None], factor)[:, 0]
        return flat.unpack((right - inner.to(right.dtype) @ gradients) / shift)

    return product


def _gradients(
    matrix: Curvature, weights: Mapping[str, Tensor], flat: Flat, rank: int, rng: Generator
) -> Tensor:
    """g_i / sqrt(k), [k, m]."""
    chosen = torch.randperm(matrix.rows.rows, generator=rng)[:rank].sort().values
    like = next(iter(weights.values()))
    found = torch.empty(rank, len(flat), dtype=like.dtype, device=like.device)
    rows: RowGradients | None = None
    seen = done = 0
    for chunk in matrix.rows:
        count = len(chunk[1])
        at = chosen[(chosen >= seen) & (chosen < seen + count)] - seen
        seen += count
        if not len(at):
            continue
        at = at.to(chunk[1].device)
        x = chunk[0][at] if isinstance(chunk[0], Tensor) else {n: v[at] for n, v in chunk[0].items()}
        rows = rows or RowGradients(matrix.model, weights, x)
        for few, y in split((x, chunk[1][at]), rows.rows_in(matrix.budget / 4, 1)):
            signs = torch.randint(2, (len(y), rows.logits.shape[1]), generator=rng) * 2 - 1
            parts = rows(few, signs.to(like), _signal)
            check_finite(parts)
            for i in range(len(y)):
                found[done] = flat.pack({name: part[i, 0] for name, part in parts.items()})
                done += 1
    return found.div_(rank**0.5)


def _signal(logits: Tensor, signs: Tensor) -> Tensor:
    """(diag(r) - p r') e of one row, [1, classes]: its square is diag(p) - p p' in expectation."""
    p = logits.softmax(1)
    bent = p.sqrt() * signs
    signal = bent - p * bent.sum(1, keepdim=True)
    # they add up to nothing; taken from the others, the likeliest class of a sure model keeps its digits
    likeliest = p.argmax(1, keepdim=True)
    others = signal.scatter(1, likeliest, 0.0)
    return others.scatter(1, likeliest, -others.sum(1, keepdim=True))


def _gram(gradients: Tensor) -> Tensor:
    """G G' [k, k], a stretch of coordinates at a time, added up in double precision."""
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64, device=gradients.device)
    for start, stop in blocks(gradients.shape[1], _BLOCK):
        part = gradients[:, start:stop]
        total += part @ part.T
    return total
