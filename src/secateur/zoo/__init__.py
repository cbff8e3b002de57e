"""The zoo: data sets and networks that plans call by name."""

from secateur.zoo.datasets import (
    Collection,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    imagenet,
    images,
    svhn,
    tiny_imagenet,
)
from secateur.zoo.hugging_face import transformers
from secateur.zoo.models import Normalize, mlp, small_cnn
from secateur.zoo.poison import Blend, Patch
from secateur.zoo.resnet import resnet18, resnet20s, resnet44s, resnet50, resnet56s
from secateur.zoo.vgg import vgg16_bn
from secateur.zoo.vit import vit_tiny

__all__ = [
    "Blend",
    "Collection",
    "Normalize",
    "Patch",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "imagenet",
    "images",
    "mlp",
    "resnet18",
    "resnet20s",
    "resnet44s",
    "resnet50",
    "resnet56s",
    "small_cnn",
    "svhn",
    "tiny_imagenet",
    "transformers",
    "vgg16_bn",
    "vit_tiny",
]
