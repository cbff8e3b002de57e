"""VGG-16 with batch norm, under torchvision's names."""

from __future__ import annotations

from torch import Tensor, nn

from secateur.errors import DataError
from secateur.zoo.models import Constants, Count, Normalize, Stem, check_stem, normalize

# convolutions and their channels in each of five groups; a max-pool ends a group
GROUPS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
SMALLEST = 2 ** len(GROUPS)


class VGG(nn.Module):
    """Convolutions, pooling, and a head.

    Args:
        first: The layer that normalises.
        channels: Of the images.
        classes: Width of the logits.
        stem: "cifar": global pooling and one linear layer; "imagenet": 7x7 pooling and three.
    """

    def __init__(self, first: Normalize, *, channels: int, classes: int, stem: Stem) -> None:
        super().__init__()
        check_stem(stem)
        self.normalize = first
        layers: list[nn.Module] = []
        c_in = channels
        for convolutions, c_out in GROUPS:
            for _ in range(convolutions):
                # the bias does nothing before a batch norm, but published weights have it
                layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
                c_in = c_out
            layers.append(nn.MaxPool2d(2, stride=2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1 if stem == "cifar" else 7)
        self.classifier: nn.Module = nn.Linear(c_in, classes)
        if stem == "imagenet":
            self.classifier = nn.Sequential(
                nn.Linear(c_in * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(),
                nn.Linear(4096, classes),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[b, channels, h, w] in, logits [b, classes] out."""
        x = self.normalize(x)
        if min(x.shape[-2:]) < SMALLEST:
            raise DataError(
                f"expected images of at least {SMALLEST} x {SMALLEST} pixels, got a tensor of shape "
                f"{tuple(x.shape)}: five max-pools would leave nothing of them; enlarge the images, or take "
                "another network"
            )
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def vgg16_bn(
    *,
    classes: Count = 10,
    channels: Count = 3,
    stem: Stem = "cifar",
    mean: Constants = (),
    std: Constants = (),
) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman 2015, column D) with batch norm (Ioffe and Szegedy 2015).

    Args:
        classes: Width of the logits.
        channels: Of the images.
        stem: "cifar", for images of about 32 pixels: a head of one layer, 15 million parameters in all;
            "imagenet": torchvision's network exactly, whose published weights load, 138 million.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, h, w] with h, w >= 32 to logits [b, classes].
    """
    return VGG(normalize(channels, mean, std), channels=channels, classes=classes, stem=stem)
