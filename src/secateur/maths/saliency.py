"""Pruning scores, and the masks that they give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def keep_largest(
    scores: Mapping[str, Tensor], sparsity: float, *, kept: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Masks that keep the highest scores over all tensors together.

    Args:
        scores: Name to scores, of any shapes.
        sparsity: Share to prune, in [0, 1): exactly ``round(sparsity * n)`` of n entries, ties broken by
            position.
        kept: Masks so far; what they prune is pruned first, so it stays pruned.

    Returns:
        Name to a boolean tensor, True = kept.
    """
    flat = torch.cat([score.detach().flatten().double() for score in scores.values()])
    if kept:
        before = torch.cat([
            kept.get(name, torch.ones_like(s, dtype=torch.bool)).flatten() for name, s in scores.items()
        ])
        flat = flat.masked_fill(~before, -torch.inf)
    mask = torch.ones_like(flat, dtype=torch.bool)
    mask[torch.argsort(flat, stable=True)[: round(sparsity * len(flat))]] = False
    parts = mask.split([score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape).clone()
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }
