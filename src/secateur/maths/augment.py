"""Augmentation of image batches: batches in, batches out, and one generator as the only source of chance."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from secateur.errors import UsageError


class CropFlip:
    """Random crop after zero padding, and random horizontal flip: for each image two offsets and one coin."""

    def __init__(self, pad: int, flip: bool) -> None:
        self.pad, self.flip = pad, flip

    def __repr__(self) -> str:
        return f"crop_flip({self.pad}{'' if self.flip else ', flip=False'})"

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """Crop and flip [b, c, h, w]; the same shape comes back."""
        b, _, h, w = x.shape
        offset = torch.randint(0, 2 * self.pad + 1, (2, b, 1), generator=rng)
        flip = torch.randint(0, 2, (b, 1), generator=rng, dtype=torch.bool) & self.flip
        rows = offset[0] + torch.arange(h)
        columns = offset[1] + torch.where(flip, torch.arange(w - 1, -1, -1), torch.arange(w))
        padded = functional.pad(x, (self.pad,) * 4)
        index = torch.arange(b).view(b, 1, 1), rows.view(b, h, 1), columns.view(b, 1, w)
        i, r, c = (part.to(x.device, non_blocking=True) for part in index)
        return padded.permute(0, 2, 3, 1)[i, r, c].permute(0, 3, 1, 2)


def crop_flip(pad: int = 4, *, flip: bool = True) -> CropFlip:
    """The usual augmentation of small images, batched, for ``Split.of(..., augment=crop_flip(4))``.

    Args:
        pad: Pixels of zero padding on each side before the crop.
        flip: Mirror half of the images; False where a mirrored image means something else.

    Returns:
        Batches [b, c, h, w] of floats and a generator in, such batches out.

    Raises:
        UsageError: ``pad`` is negative.
    """
    if pad < 0:
        raise UsageError(f"expected a padding of at least 0 pixels, got {pad}: 0 crops nothing")
    return CropFlip(pad, flip)
