"""Pruning scores, and the masks that they give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.errors import NotFinite, UsageError

Chunk = tuple[Tensor | Mapping[str, Tensor], Tensor]  # x [b, ...], or a mapping of such, and the classes [b]


def keep_largest(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    of: int | None = None,
    per: Literal["network", "layer"] = "network",
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks that keep the highest scores.

    Args:
        scores: Name to scores, of any shapes.
        sparsity: Share to prune, in [0, 1): exactly ``round(sparsity * n)`` entries, ties broken by position.
        of: n, where it counts more than the entries of ``scores``; None: these.
        per: "network": the lowest of all tensors together; "layer": the same share of each tensor, to within
            half an entry, and the same number in total.
        kept: Masks so far; what they prune is pruned first, so it stays pruned.

    Returns:
        Name to a boolean tensor, True = kept.

    Raises:
        UsageError: ``kept`` prunes more than ``sparsity`` asks for, or ``scores`` has too few entries for it.
        NotFinite: A score is NaN or infinite.
    """
    for name, score in scores.items():
        if not bool(score.isfinite().all()):
            raise NotFinite(
                f'expected finite scores, got NaN or infinity for "{name}": the network overflows; normalise '
                "the data, train with a lower lr, or prune by magnitude"
            )
    masks = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    sizes = [mask.numel() for mask in masks.values()]
    before = torch.cat([(kept or {}).get(name, mask).flatten() for name, mask in masks.items()])
    flat = torch.cat([score.detach().flatten().double() for score in scores.values()])
    n = len(flat) if of is None else of
    count, gone = round(sparsity * n), int((~before).sum())
    if gone > count:
        raise UsageError(
            f"expected to prune at least the {gone} of {n} weights that are pruned already, got "
            f"sparsity {sparsity} ({count} weights): no weight grows back; ask for more, or leave this out"
        )
    if count > len(flat):
        most = math.floor(1e4 * len(flat) / n) / 1e4
        raise UsageError(
            f"expected to prune at most the {len(flat)} of {n} weights that can be pruned (embeddings and "
            f"the like cannot), got sparsity {sparsity} ({count} weights): ask for at most {most}"
        )
    flat = flat.masked_fill(~before, -torch.inf)
    if per == "layer":
        flat = torch.cat([_places(part) for part in torch.split(flat, sizes)])
    chosen = _without_lowest(flat, count)
    parts = zip(masks, torch.split(chosen, sizes), torch.split(before, sizes), strict=True)
    found = {}
    for name, part, was in parts:
        if bool((part & ~was).any()):  # per layer only: the others are behind this one
            raise UsageError(
                f"expected the same share of each layer, but {int((~was).sum())} of {len(was)} weights of "
                f'"{name}" are pruned already, and no weight grows back: raise sparsity, or set per = '
                '"network"'
            )
        found[name] = part.view_as(masks[name]).clone()
    return found


def _places(scores: Tensor) -> Tensor:
    """The rank of each score [n] among the others, as a share in (0, 1)."""
    # Cut at one height for all layers, round(height * n) of each lie below it: the divisor method of Webster.
    # Under it no layer's number falls as the total rises, so rounds of pruning stay consistent; under the
    # largest remainder it can.
    places = torch.empty_like(scores)
    ranks = torch.arange(len(scores), dtype=scores.dtype, device=scores.device)
    places[scores.argsort(stable=True)] = (ranks + 0.5) / len(scores)
    return places


def _without_lowest(flat: Tensor, count: int) -> Tensor:
    """[n], False for the ``count`` lowest; ties by position."""
    if not count:
        return torch.ones_like(flat, dtype=torch.bool)
    # sorting would take ten times as long
    edge = flat.kthvalue(count).values
    keep = flat >= edge
    ties = (flat == edge).nonzero()[: count - int((~keep).sum()), 0]
    return keep.index_fill(0, ties, False)


def snip(model: nn.Module, chunks: Sequence[Chunk], names: Sequence[str]) -> dict[str, Tensor]:
    """Connection sensitivity, ``|w * dL/dw|`` (Lee, Ajanthan and Torr, SNIP, ICLR 2019).

    It is the size of dL/dc at c = 1, where c multiplies w: how much the loss moves as a weight fades.

    Args:
        model: Returns logits [b, classes]; in training mode, batch norm uses the statistics of each chunk and
            moves its own, so hand over a copy.
        chunks: All rows in parts; L is the mean cross-entropy over all of them, in nats.
        names: The parameters to score, which must require gradients.

    Returns:
        Name to scores, in the shape of the parameter.
    """
    weights = [model.get_parameter(name) for name in names]
    gradient = _gradient(model, chunks, weights, 1.0)
    return {name: (w.detach() * g).abs() for name, w, g in zip(names, weights, gradient, strict=True)}


def grasp(
    model: nn.Module,
    chunks: Sequence[Chunk],
    names: Sequence[str],
    *,
    temperature: float = 1.0,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """How much gradient flow a weight carries, ``w * H g`` (Wang, Zhang and Grosse, GraSP, ICLR 2020).

    Without a weight, g'g changes by ``-2 w (H g)`` to first order. The paper prunes the largest of
    ``-w * H g``, without which flow falls least or grows: the lowest scores here.

    Args:
        model: As for ``snip``.
        chunks: As for ``snip``.
        names: The parameters to score, which must require gradients; g and H are those of the loss in these.
        temperature: What logits are divided by, > 0.
        kept: Masks so far: no gradient flows through what they prune.

    Returns:
        Name to scores of either sign, in the shape of the parameter.
    """
    weights = [model.get_parameter(name) for name in names]
    masks = kept or {}
    with sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
        gradient = _gradient(model, chunks, weights, temperature)
        flow = [g * masks[name] if name in masks else g for name, g in zip(names, gradient, strict=True)]
        products = _gradient(model, chunks, weights, temperature, along=flow)
    return {name: w.detach() * p for name, w, p in zip(names, weights, products, strict=True)}


def _gradient(
    model: nn.Module,
    chunks: Sequence[Chunk],
    weights: Sequence[Tensor],
    temperature: float,
    *,
    along: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The gradient of the mean cross-entropy over all chunks; with ``along``, the Hessian times that."""
    rows = sum(len(y) for _, y in chunks)
    sums = [torch.zeros_like(w) for w in weights]
    for x, y in chunks:
        loss = functional.cross_entropy(model(x) / temperature, y, reduction="sum") / rows
        # a layer that the forward pass leaves out has a gradient of zeros
        parts = torch.autograd.grad(loss, weights, create_graph=along is not None, materialize_grads=True)
        if along is not None:
            dot = torch.stack([(g * v).sum() for g, v in zip(parts, along, strict=True)]).sum()
            parts = torch.autograd.grad(dot, weights, materialize_grads=True)
        for total, part in zip(sums, parts, strict=True):
            total += part
    return sums


def synflow(model: nn.Module, ones: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Synaptic flow, ``|w * dR/dw|`` with R the sum of logits (Tanaka et al., SynFlow, NeurIPS 2020).

    Args:
        model: Weights and buffers at least zero, in evaluation mode and double precision: R is a sum over
            paths of the product of all weights on them, and overflows sooner in single.
        ones: [1, ...], the input, in double.
        names: The parameters to score, which must require gradients.

    Returns:
        Name to scores, in the shape of the parameter. Without biases and norms they sum to R in each layer.
    """
    weights = [model.get_parameter(name) for name in names]
    gradient = torch.autograd.grad(model(ones).sum(), weights, materialize_grads=True)
    return {name: (w.detach() * g).abs() for name, w, g in zip(names, weights, gradient, strict=True)}
