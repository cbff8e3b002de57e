"""Residual networks: those made for CIFAR (20, 44, 56 layers), and 18 and 50; torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.zoo.models import Constants, Count, Normalize, Stem, check_stem, normalize


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)


class Subsample(nn.Module):
    """Shortcut of type A: every second pixel, and channels of zeros on both sides. No parameters.

    Args:
        c_in: Channels that come.
        c_out: Channels that go.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        before = (c_out - c_in) // 2
        self.pad = (0, 0, 0, 0, before, c_out - c_in - before)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c_in, h, w] in, [b, c_out, ceil(h / 2), ceil(w / 2)] out."""
        return F.pad(x[:, :, ::2, ::2], self.pad)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        c_in: Channels that come.
        width: Channels that go.
        stride: Of the first convolution.
        downsample: The shortcut, where it is not the identity.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, c_in: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[b, c_in, h, w] in, [b, width, ceil(h / stride), ceil(w / stride)] out."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = self.relu(out + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolutions, and a shortcut.

    Args:
        c_in: Channels that come.
        width: Channels between; four times as many go.
        stride: Of the second convolution.
        downsample: The shortcut, where it is not the identity.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, c_in: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[b, c_in, h, w] in, [b, 4 * width, ceil(h / stride), ceil(w / stride)] out."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out = self.relu(out + shortcut)
        return out


class ResNet(nn.Module):
    """A stem, stages of blocks (each after the first halves height and width), global pooling, a linear head.

    Args:
        first: The layer that normalises.
        block: BasicBlock or Bottleneck.
        depths: Blocks of each stage.
        width: Of the first stage; each later one has twice that of the one before.
        channels: Of the images.
        classes: Width of the logits.
        stem: "cifar": a 3x3 convolution; "imagenet": 7x7 and a max-pool, which divide the size by 4.
        plain_shortcuts: Type A of the paper (no parameters) instead of type B (a 1x1 convolution).
    """

    def __init__(
        self,
        first: Normalize,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        *,
        width: int,
        channels: int,
        classes: int,
        stem: Stem,
        plain_shortcuts: bool = False,
    ) -> None:
        super().__init__()
        check_stem(stem)
        large = stem == "imagenet"
        self.normalize = first
        self.conv1 = _conv(channels, width, 7, 2) if large else _conv(channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        c_in = width
        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        for i, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            c_out = width * 2**i * block.expansion
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                shortcut: nn.Module | None = None
                if stride != 1 or c_in != c_out:
                    shortcut = (
                        Subsample(c_in, c_out)
                        if plain_shortcuts
                        else nn.Sequential(_conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))
                    )
                blocks.append(block(c_in, width * 2**i, stride, shortcut))
                c_in = c_out
            self.add_module(self.stages[i], nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[b, channels, h, w] in, logits [b, classes] out."""
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.maxpool(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _small(blocks: int, classes: int, channels: int, mean: Constants, std: Constants) -> nn.Module:
    model = ResNet(
        normalize(channels, mean, std),
        BasicBlock,
        (blocks,) * 3,
        width=16,
        channels=channels,
        classes=classes,
        stem="cifar",
        plain_shortcuts=True,
    )
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    return model


def resnet20s(
    *, classes: Count = 10, channels: Count = 3, mean: Constants = (), std: Constants = ()
) -> nn.Module:
    """The CIFAR network of 20 layers (He et al. 2016, section 4.2): 0.27 million parameters.

    Three stages of 16, 32 and 64 channels; shortcuts have no parameters (type A). Not
    resnet18, which has forty times as many weights.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, h, w] to logits [b, classes].
    """
    return _small(3, classes, channels, mean, std)


def resnet44s(
    *, classes: Count = 10, channels: Count = 3, mean: Constants = (), std: Constants = ()
) -> nn.Module:
    """The CIFAR network of 44 layers (He et al. 2016, section 4.2): 0.66 million parameters.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, h, w] to logits [b, classes].
    """
    return _small(7, classes, channels, mean, std)


def resnet56s(
    *, classes: Count = 10, channels: Count = 3, mean: Constants = (), std: Constants = ()
) -> nn.Module:
    """The CIFAR network of 56 layers (He et al. 2016, section 4.2): 0.85 million parameters.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, h, w] to logits [b, classes].
    """
    return _small(9, classes, channels, mean, std)


def _large(
    block: type[BasicBlock | Bottleneck],
    depths: tuple[int, ...],
    classes: int,
    channels: int,
    mean: Constants,
    std: Constants,
    stem: Stem,
) -> nn.Module:
    first = normalize(channels, mean, std)
    model = ResNet(first, block, depths, width=64, channels=channels, classes=classes, stem=stem)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet18(
    *,
    classes: Count = 10,
    channels: Count = 3,
    stem: Stem = "cifar",
    mean: Constants = (),
    std: Constants = (),
) -> nn.Module:
    """ResNet-18 (He et al. 2016, table 1): 11 million parameters, under torchvision's names.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        stem: "cifar", for images of about 32 pixels: a 3x3 convolution and no max-pool; "imagenet":
            torchvision's network exactly, whose published weights load.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, h, w] to logits [b, classes].
    """
    return _large(BasicBlock, (2, 2, 2, 2), classes, channels, mean, std, stem)


def resnet50(
    *,
    classes: Count = 10,
    channels: Count = 3,
    stem: Stem = "cifar",
    mean: Constants = (),
    std: Constants = (),
) -> nn.Module:
    """ResNet-50 (He et al. 2016, table 1): 24 million parameters, under torchvision's names.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        stem: "cifar", for images of about 32 pixels: a 3x3 convolution and no max-pool; "imagenet":
            torchvision's network exactly, whose published weights load.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, h, w] to logits [b, classes].
    """
    return _large(Bottleneck, (3, 4, 6, 3), classes, channels, mean, std, stem)
