"""Networks. Each is a function of keyword knobs to a new module that returns logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Subtracts constants and divides by constants, per channel; in the model, so a checkpoint is complete.

    Args:
        mean: One number for each channel.
        std: One number for each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] in, the same shape out."""
        return (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)


def small_cnn(*, classes: int = 10, channels: int = 1, width: int = 32) -> nn.Module:
    """Three convolutions with batch norm, and a linear head: for digits, tests and examples.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        width: Channels of the first convolution; the others have twice as many.

    Returns:
        A new module: images [b, channels, h, w] with h, w >= 4 to logits [b, classes].
    """

    def block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        ]

    return nn.Sequential(
        Normalize((0.5,) * channels, (0.5,) * channels),
        *block(channels, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 2 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )
