"""What makes conjugate gradients need fewer products: an approximate inverse, from gradients of some rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from secateur.errors import UsageError
from secateur.maths.curvature.flat import Flat, blocks
from secateur.maths.curvature.model import check_finite, choose
from secateur.maths.curvature.passes import Pass, split
from secateur.maths.curvature.products import Curvature, Product
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
    """(1/k sum_i g_i g_i' + damping I)^-1, with k gradients g_i of rows of the matrix, as a preconditioner.

    g_i = J_i' (diag(r) - p_i r') e with r the square root of p_i and e a random direction among the classes
    (E ee' = I): its square is that row's share of the GGN in expectation, even where the model is all but
    sure of its class (which a drawn class would then nearly always be). Directions of one row are orthogonal,
    so one for each class gives its share exactly. Inverted by Woodbury's identity, in k dimensions.

    Args:
        matrix: The rows and their model; of the GGN, or of a Hessian that it is like.
        rank: How many gradients to keep: one of each of so many rows, drawn at random; where there are fewer
            rows, of each as many as go into ``rank``, at most one for each class.
        damping: As handed to ``solve``, above 0.
        rng: A CPU generator.
        masks: As handed to ``solve``.

    Returns:
        A function of vectors, named as the parameters that require gradients; hand it to ``solve``. It keeps
        ``rank`` gradients of unmasked coordinates, those of single precision as bfloat16: rounded before
        anything is computed of them, so the matrix is as positive, and inverted as exactly.

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
    rows = RowGradients(matrix.model, weights, next(iter(matrix.rows))[0])
    count = min(rank, matrix.rows.rows)
    rank = count * min(rank // count, rows.logits.shape[1])
    kind = next(iter(weights.values())).dtype
    kept = torch.bfloat16 if kind == torch.float32 else kind
    needs = rank * len(flat) * kept.itemsize
    if needs > matrix.budget:
        raise UsageError(
            f"expected gradients that fit a budget of {matrix.budget} bytes, got {needs} bytes for {rank} "
            f"of {len(flat)} coordinates: they are held together; take a rank of at most "
            f"{matrix.budget * rank // needs}"
        )
    gradients = torch.empty(rank, len(flat), dtype=kept, device=flat.device)
    _collect(gradients, matrix.rows, rows, count, flat, matrix.budget, rng)
    gram = _gram(gradients, kind)
    # a preconditioner may err, not turn negative: beyond single precision it is that of a larger damping
    highest = float(torch.linalg.eigvalsh(gram)[-1])
    shift = max(damping, 100 * torch.finfo(kind).eps * highest)
    gram.diagonal().add_(shift)
    factor = torch.linalg.cholesky(gram)

    def product(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        right = flat.pack(vectors)
        parts = [(slice(*ends), gradients[:, slice(*ends)]) for ends in blocks(len(flat), _BLOCK)]
        inner = torch.stack([part.to(kind) @ right[at] for at, part in parts]).double().sum(0)
        inner = torch.cholesky_solve(inner[:, None], factor)[:, 0].to(kind)
        return flat.unpack(torch.cat([right[at] - inner @ part.to(kind) for at, part in parts]) / shift)

    return product


def _collect(
    into: Tensor, chunks: Pass, rows: RowGradients, count: int, flat: Flat, budget: float, rng: Generator
) -> None:
    """g_i / sqrt(k), [k, m], equally many of each of ``count`` rows."""
    draws, classes = len(into) // count, rows.logits.shape[1]
    chosen = torch.randperm(chunks.rows, generator=rng)[:count].sort().values
    seen = done = 0
    for x, y, *_ in chunks:
        at = chosen[(chosen >= seen) & (chosen < seen + len(y))] - seen
        seen += len(y)
        if not len(at):
            continue
        at = at.to(y.device)
        drawn = x[at] if isinstance(x, Tensor) else {name: value[at] for name, value in x.items()}
        for few, its in split((drawn, y[at]), rows.rows_in(budget / 4, draws)):
            directions = torch.randn(len(its), classes, draws, generator=rng, dtype=torch.float64)
            directions = torch.linalg.qr(directions).Q.mT * classes**0.5
            parts = rows(few, directions.to(rows.logits), _signal)
            check_finite(parts)
            packed = flat.pack(parts).flatten(0, 1)
            into[done : done + len(packed)] = packed / len(into) ** 0.5
            done += len(packed)


def _signal(logits: Tensor, directions: Tensor) -> Tensor:
    """(diag(r) - p r') e of one row, [draws, classes]: its square is diag(p) - p p' in expectation."""
    p = logits.softmax(1)
    bent = p.sqrt() * directions
    signal = bent - p * bent.sum(1, keepdim=True)
    # they add up to nothing; taken from the others, the likeliest class of a sure model keeps its digits
    likeliest = p.argmax(1, keepdim=True).expand(len(directions), 1)
    others = signal.scatter(1, likeliest, 0.0)
    return others.scatter(1, likeliest, -others.sum(1, keepdim=True))


def _gram(gradients: Tensor, kind: torch.dtype) -> Tensor:
    """G G' [k, k], a stretch of coordinates at a time, added up in double precision."""
    size = len(gradients)
    total = torch.zeros(size, size, dtype=torch.float64, device=gradients.device)
    rows = blocks(size, max(1, -(-size // 4)))  # the upper part is the lower one, mirrored
    for ends in blocks(gradients.shape[1], _BLOCK):
        part = gradients[:, slice(*ends)].to(kind)
        for start, stop in rows:
            total[start:stop, :stop] += part[start:stop] @ part[:stop].T
    return total.tril() + total.tril(-1).T
