"""Proximal operators."""

from __future__ import annotations

from torch import Tensor


def soft_threshold(x: Tensor, amount: float) -> Tensor:
    """The proximal operator of ``amount * ||x||_1``: towards zero by ``amount``, and exactly +0.0 within it.

    Args:
        x: Any shape.
        amount: At least zero.

    Returns:
        ``sign(x) * max(|x| - amount, 0)``, of the same shape (Donoho, 1995).

    >>> import torch
    >>> soft_threshold(torch.tensor([-2.0, -0.5, 0.0, 3.0]), 1.0)
    tensor([-1.,  0.,  0.,  2.])
    """
    # x - clamp(x) and not sign(x) * ..., which leaves -0.0 where x was negative
    return x - x.clamp(-amount, amount)
