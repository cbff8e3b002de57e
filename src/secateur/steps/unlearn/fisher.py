"""Fisher forgetting: noise where the retained rows do not need precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from secateur.card import Card
from secateur.data import Batch, Role
from secateur.knobs import Noise
from secateur.maths.curvature import diagonal_fisher
from secateur.network import fill, find_head
from secateur.run import Run
from secateur.split import Split
from secateur.state import State

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """Add Gaussian noise of variance noise * min(F^(-2 exponent), clamp) to every trainable weight.

    F is the diagonal Fisher information of the retained rows. A network that knows its rows by heart has
    hardly any, so that many weights stand at the clamp: the trace tells the share. The published code is
    clamp = 1000, average = "inputs", norm_factor = 10, head_factor = 10, and forgotten = "reset" for a class.

    Attributes:
        exponent: The standard deviation goes with F^-exponent: 0.5 as in the published code, 0.25 as in the
            text of Golatkar et al.
        clamp: Largest F^(-2 exponent), that is, the variance (before ``noise``) of a weight without any
            information.
        kind: Whose classes F is taken at: "expected", all by the model's probabilities, exactly; "sampled",
            one drawn for each row, in a fraction of the time; "empirical", the true ones.
        average: The variance of each weight by itself ("none"), or its mean over all that lead to the same
            output ("inputs").
        norm_factor: Factor on the variance of scales and shifts of normalisation layers; 0 leaves them alone.
        head_factor: Factor on the variance of the linear layer that gives the logits; 0 leaves it alone.
        forgotten: The head's rows of classes without retained rows: "noise" as for the others; "reset" puts
            them at zero first, with the noise of weights without any information.
    """

    card: ClassVar[Card] = Card(
        summary="Adds noise where the retained rows leave the weights free: forgetting without training.",
        paper="Golatkar, Achille and Soatto, Eternal Sunshine of the Spotless Net, CVPR 2020; Jia et al., "
        "NeurIPS 2023",
        data="retain",
    )
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    noise: Noise = 1e-7
    exponent: Annotated[float, Field(gt=0, le=1)] = 0.5
    clamp: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0
    kind: Literal["expected", "sampled", "empirical"] = "expected"
    average: Literal["none", "inputs"] = "none"
    norm_factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    head_factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    forgotten: Literal["noise", "reset"] = "noise"

    def gradients(self, split: Split) -> float:
        """For estimates: squares row by row take 1.6 times as long as the mean (benchmarks/curvature.py)."""
        each = 1.4 * split.classes if self.kind == "expected" else 1.6
        return each * len(split.retain)

    @torch.no_grad()
    def __call__(self, state: State, run: Run, /) -> State:
        """Measure the information, then draw the noise in the order of the parameters."""
        with run.progress.bar("Fisher information", len(state.retain)) as advance:
            rows = _told(state.retain.once(), advance)
            information = diagonal_fisher(state.model, rows, kind=self.kind, rng=run.rng("classes"))
        factors, head = _of_norms(state.model, self.norm_factor), dict[str, nn.Parameter]()
        gone: list[int] = []
        if self.head_factor != 1 or self.forgotten == "reset":
            path = find_head(state.model, next(state.retain.once(batch=2)).x)
            layer = state.model.get_submodule(path)
            head = dict(layer.named_parameters(path))
            factors |= dict.fromkeys(head, self.head_factor)
            if self.forgotten == "reset":
                gone = sorted(
                    set(range(len(layer.get_parameter("weight")))) - set(state.retain.labels.tolist())
                )
        rng, clamped, total = run.rng("noise"), 0, 0
        for name, found in information.items():
            weight, factor = state.model.get_parameter(name), factors.get(name, 1.0)
            spread = found.pow(-2 * self.exponent)  # infinite where there is no information
            if name in head and gone:
                weight[gone], spread[gone] = 0.0, torch.inf
            free = state.masks.get(name, torch.ones_like(weight, dtype=torch.bool))
            if factor:
                clamped += int((spread[free] > self.clamp).sum())
                total += int(free.sum())
            spread = spread.clamp(max=self.clamp)
            if self.average == "inputs" and weight.ndim > 1:
                spread = (spread * free).sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp(min=1)
            # for every weight and in double: neither a factor nor the precision moves the noise of others
            drawn = torch.randn(weight.shape, generator=rng, dtype=torch.float64).to(weight)
            weight.add_((factor * self.noise * spread).sqrt() * drawn)
        fill(state.model, state.masks)
        run.note("clamped", clamped / max(1, total))
        return state


def _of_norms(model: nn.Module, factor: float) -> dict[str, float]:
    """A factor for the parameters of normalisation layers, by name."""
    found = set[int]()
    for module in model.modules():
        if isinstance(module, _NORMS):
            found |= {id(p) for p in module.parameters(recurse=False)}
    return {name: factor for name, p in model.named_parameters() if id(p) in found}


def _told(batches: Iterator[Batch], advance: Callable[[int], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        advance(len(batch.y))
