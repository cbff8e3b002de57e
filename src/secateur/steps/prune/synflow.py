"""SynFlow: prune without any data, and keep paths from end to end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from secateur.card import Card
from secateur.data import Role
from secateur.errors import DataError
from secateur.knobs import Sparsity
from secateur.maths.saliency import synflow
from secateur.network import fill, probe
from secateur.run import Run
from secateur.split import Split
from secateur.state import State
from secateur.steps._choice import Choice, Rounds, scratch


@dataclass(frozen=True, kw_only=True)
class Synflow(Choice):
    """Prune in rounds the weights with the lowest ``|w * dR/dw|``, and score again after each.

    R is the sum of logits for an input of ones, in evaluation mode and double precision, with all weights and
    buffers made positive, and without what is added on the way (biases, the means of batch norm). It is then
    the paper's sum over paths, and every layer of a chain carries the whole of it, so none runs empty while
    others have weights to spare; the published code keeps biases, which can take over the flow. Of branches
    one can: the narrow shortcuts of a ResNet-18 go before 95 %, and need ``empty = "allow"``. Under layer
    norm it is a heuristic. The kept share falls by one factor per round. Sparsity 0 changes nothing.

    It reads no row; of a trained model ``masks_saw`` takes over what the weights saw.
    """

    card: ClassVar[Card] = Card(
        summary="Prunes by the flow of ones through positive weights, in many rounds and without data.",
        paper="Tanaka et al., Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic "
        "Flow, NeurIPS 2020",
        data="none; the shape of a row, which must be one tensor",
    )
    reads: ClassVar[frozenset[Role]] = frozenset()

    sparsity: Sparsity = 0.95
    rounds: Rounds = 100

    def gradients(self, split: Split) -> float:
        """For estimates: that of one row of ones in each round."""
        return float(self.rounds) if self.sparsity else 0.0

    def __call__(self, state: State, run: Run, /) -> State:
        """Score and prune a positive copy, then take its masks."""
        if self.sparsity == 0:
            return state
        weights, size = self.weights(state), self.size(state)
        most = sum(weight.numel() for weight in weights.values())
        start, end = most - self.gone(state), most - round(self.sparsity * size)
        ratio = min(1.0, max(0, end) / max(1, start))
        model = _positive(scratch(state.model, weights))
        ones = torch.ones(1, *state.pool.shape, dtype=torch.float64, device=run.where)
        probe(model, ones)
        if end < 1:
            raise DataError(
                f"expected a sparsity that leaves a weight, got {self.sparsity} of {size} weights, which "
                f"leaves none of the {most} that can be pruned: prune less"
            )
        masks = state.masks
        for number in range(1, self.rounds + 1):
            left = start * ratio ** (number / self.rounds)
            sparsity = self.sparsity if number == self.rounds else (most - left) / size
            scores = synflow(model, ones, list(weights))
            masks = self.masks(replace(state, masks=masks), scores, sparsity)
            fill(model, masks)
        return state.pruned(masks)


@torch.no_grad()
def _positive(model: nn.Module) -> nn.Module:
    model.double().eval()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("bias", "running_mean")):
            value.zero_()
        elif value.is_floating_point():  # -inf in a buffer is an attention mask, and stays one
            value.copy_(torch.where(value.isinf(), value, value.abs()))
    return model
