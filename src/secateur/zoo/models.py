"""What the networks of the zoo share, and the small ones.

Each network is a function of keyword knobs to a new module that takes images [b, channels, h, w] in [0, 1]
and returns logits [b, classes].
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from secateur.errors import DataError, UsageError, nearest

Count = Annotated[int, Field(ge=1)]
Constants = tuple[float, ...]
Stem = Literal["cifar", "imagenet"]


class Normalize(nn.Module):
    """Subtracts constants and divides by constants, per channel; in the model, so a checkpoint is complete.

    A checkpoint from elsewhere has no such constants: without any, those that it was built with stand.

    Args:
        mean: One number for each channel.
        std: One number for each channel.
        size: Height and width that the network takes, if it takes only one.
    """

    may_lack: ClassVar[tuple[str, ...]] = ("mean", "std")  # read by network.check_fits
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Constants, std: Constants, *, size: int | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] in, the same shape out."""
        channels, size = len(self.mean), self.size
        # one channel would be broadcast to all of them without a word
        if x.ndim < 3 or x.shape[-3] != channels or (size and tuple(x.shape[-2:]) != (size, size)):
            want = (channels, size, size) if size else (channels, "h", "w")
            knobs = "`channels` and `size`" if size else "`channels`"
            raise DataError(
                f"expected images [{', '.join(map(str, ('b', *want)))}], got a tensor of shape "
                f"{tuple(x.shape)}: build the network with {knobs} of the data, or reshape the images"
            )
        return (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if not any(prefix + name in state_dict for name in self.may_lack):
            state_dict |= {prefix + name: getattr(self, name) for name in self.may_lack}
        super()._load_from_state_dict(state_dict, prefix, *rest)


def normalize(channels: int, mean: Constants, std: Constants, *, size: int | None = None) -> Normalize:
    """The first layer of a network.

    Args:
        channels: Of the images.
        mean: One number for each channel; () means 0.5 for each.
        std: The same.
        size: Height and width that the network takes, if it takes only one.

    Returns:
        The layer.

    Raises:
        UsageError: The constants are too many or too few, or cannot be divided by.
    """
    for name, constants in (("mean", mean), ("std", std)):
        if constants and len(constants) != channels:
            raise UsageError(
                f"expected one number in `{name}` for each of {channels} channels, got {len(constants)}: "
                f"each channel is normalised by itself; give {channels} numbers, or none for 0.5 each"
            )
    if not all(map(math.isfinite, (*mean, *std))) or not all(value > 0 for value in std):
        raise UsageError(
            f"expected finite numbers in `mean` and numbers above zero in `std`, got mean = {mean} and std = "
            f"{std}: images are divided by `std`; leave out a channel that never varies, or give it 1.0"
        )
    half = (0.5,) * channels
    return Normalize(tuple(mean) or half, tuple(std) or half, size=size)


def check_stem(stem: str) -> None:
    """Check the name of a stem.

    Args:
        stem: What came.

    Raises:
        UsageError: None is called so.
    """
    if stem not in get_args(Stem):
        raise UsageError(f'no stem is called "{stem}", {nearest(stem, get_args(Stem))}')


def small_cnn(
    *,
    classes: Count = 10,
    channels: Count = 1,
    width: int = 32,
    mean: Constants = (),
    std: Constants = (),
) -> nn.Module:
    """Three convolutions with batch norm, and a linear head: for digits, tests and examples.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        width: Channels of the first convolution; the others have twice as many.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

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
        normalize(channels, mean, std),
        *block(channels, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 2 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def mlp(
    *,
    classes: Count = 10,
    channels: Count = 1,
    size: Count = 28,
    width: Count = 256,
    depth: Count = 2,
    mean: Constants = (),
    std: Constants = (),
) -> nn.Module:
    """Linear layers with ReLU between them, on the pixels: for tests and exact maths.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        size: Height and width of the images.
        width: Of the hidden layers.
        depth: How many hidden layers.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, size, size] to logits [b, classes].
    """
    hidden: list[nn.Module] = []
    for i in range(depth):
        hidden += [nn.Linear(width if i else channels * size * size, width), nn.ReLU(inplace=True)]
    return nn.Sequential(
        normalize(channels, mean, std, size=size), nn.Flatten(), *hidden, nn.Linear(width, classes)
    )
