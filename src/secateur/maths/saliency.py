"""Pruning scores, and the masks that they give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.errors import UsageError


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

    Raises:
        UsageError: ``kept`` prunes more than ``sparsity`` asks for.
    """
    masks = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    before = torch.cat([(kept or {}).get(name, mask).flatten() for name, mask in masks.items()])
    flat = torch.cat([score.detach().flatten().double() for score in scores.values()])
    count, gone = round(sparsity * len(flat)), int((~before).sum())
    if gone > count:
        raise UsageError(
            f"expected to prune at least the {gone} of {len(flat)} weights that are pruned already, got "
            f"sparsity {sparsity} ({count} weights): no weight grows back; ask for more, or leave this out"
        )
    order = torch.argsort(flat.masked_fill(~before, -torch.inf), stable=True)
    chosen = torch.ones_like(before).index_fill(0, order[:count], False)
    parts = torch.split(chosen, [mask.numel() for mask in masks.values()])
    return {name: part.view_as(masks[name]).clone() for name, part in zip(masks, parts, strict=True)}
