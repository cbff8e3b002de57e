"""A small vision transformer, under torchvision's names."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.zoo.models import Constants, Count, Normalize, normalize


class EncoderBlock(nn.Module):
    """Self-attention and an MLP, each after a layer norm and beside an identity.

    Args:
        width: Of a token.
        heads: Of the attention.
        hidden: Width inside the MLP.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        # an identity stands where torchvision drops out (a share of 0), so that the layers count alike
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, width), nn.Identity()
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[b, tokens, width] in, the same shape out."""
        normed = self.ln_1(x)
        mixed, _ = self.self_attention(normed, normed, normed, need_weights=False)
        x = x + mixed
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Encoder(nn.Module):
    """Positions, blocks, a last layer norm.

    Args:
        tokens: How many there are.
        width: Of a token.
        depth: Blocks.
        heads: Of the attention.
        hidden: Width inside the MLPs.
    """

    def __init__(self, tokens: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))
        self.layers = nn.Sequential(
            OrderedDict((f"encoder_layer_{i}", EncoderBlock(width, heads, hidden)) for i in range(depth))
        )
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[b, tokens, width] in, the same shape out."""
        out: Tensor = self.ln(self.layers(x + self.pos_embedding))
        return out


class VisionTransformer(nn.Module):
    """Patches to tokens, a class token, an encoder, and a linear head on the class token.

    Args:
        first: The layer that normalises.
        size: Height and width of the images.
        patch: Height and width of a patch.
        width: Of a token.
        depth: Blocks.
        heads: Of the attention.
        hidden: Width inside the MLPs.
        channels: Of the images.
        classes: Width of the logits.
    """

    def __init__(
        self,
        first: Normalize,
        *,
        size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.normalize = first
        self.conv_proj = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = Encoder((size // patch) ** 2 + 1, width, depth, heads, hidden)
        head = nn.Linear(width, classes)
        self.heads = nn.Sequential(OrderedDict(head=head))
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (channels * patch**2)))
        for zero in (self.conv_proj.bias, head.weight, head.bias):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """[b, channels, size, size] in, logits [b, classes] out."""
        tokens = self.conv_proj(self.normalize(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        logits: Tensor = self.heads(self.encoder(tokens)[:, 0])
        return logits


def vit_tiny(
    *,
    classes: Count = 10,
    channels: Count = 3,
    size: Count = 32,
    patch: Count = 4,
    mean: Constants = (),
    std: Constants = (),
) -> nn.Module:
    """ViT-Tiny (Dosovitskiy et al. 2021, in the size that Touvron et al. 2021 call DeiT-Ti).

    Width 192, 12 blocks, 3 heads; 5.4 million parameters. The head begins at zero, as torchvision's does: at
    initialisation all logits are 0 and nothing before the head gets a gradient, so pruning scores that are
    taken there say nothing.

    Args:
        classes: Width of the logits.
        channels: Of the images.
        size: Height and width of the images.
        patch: Height and width of a patch; it divides the size.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, size, size] to logits [b, classes].

    Raises:
        UsageError: The patch does not divide the size.
    """
    if size % patch:
        raise UsageError(
            f"expected a patch that divides the size of the images ({size}), got {patch}: the rest would be "
            "cut off unseen; change `patch`, or the size of the images and `size`"
        )
    return VisionTransformer(
        normalize(channels, mean, std, size=size),
        size=size,
        patch=patch,
        width=192,
        depth=12,
        heads=3,
        hidden=768,
        channels=channels,
        classes=classes,
    )
