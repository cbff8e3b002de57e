"""What every pruning step can be told, and what they share: which weights count, and masks out of scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from secateur.data import Role
from secateur.errors import DataError
from secateur.knobs import Sparsity
from secateur.maths.saliency import Chunk as Rows
from secateur.maths.saliency import keep_largest
from secateur.network import copy_model
from secateur.run import Run
from secateur.split import Split
from secateur.state import Scope, State

Per = Annotated[
    Literal["network", "layer"],
    Field(description="compare all layers together, or prune the same share of each (to the nearest weight)"),
]
Samples = Annotated[
    int, Field(ge=1, description="pool rows that the scores look at, drawn at random; ten per class is usual")
]
Chunk = Annotated[
    int, Field(ge=1, description="rows that are scored together, at most; batch norm uses their statistics")
]
Rounds = Annotated[int, Field(ge=1, description="rounds of scoring and pruning")]
Rewind = Annotated[
    str | None,
    Field(
        pattern=r"^epoch-\d+$",
        description='mark to put the kept weights back to ("epoch-2", kept by `train` with `keep = [2]`)',
    ),
]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which weights a pruning step may take, and what it may leave.

    Attributes:
        scope: Which weights it takes: of convolutions and linear layers together ("all"), or of one kind.
            With "all", sparsity is the share of zeros among all parameters with more than one dimension,
            embeddings among them though none of theirs is pruned; else among the weights of that kind.
        empty: "refuse" a choice that leaves a layer without any weight, or "allow" it.
    """

    scope: Scope = "all"
    empty: Literal["refuse", "allow"] = "refuse"

    def gradients(self, split: Split) -> float:
        """For estimates: none, for where weights are only compared there is no pass to wait for."""
        return 0.0

    def weights(self, state: State) -> dict[str, nn.Parameter]:
        """The weights in scope.

        Args:
            state: The model.

        Returns:
            Name to parameter.

        Raises:
            DataError: There are none.
        """
        if not (weights := state.prunable(self.scope)):
            raise DataError(
                f'expected weights to prune in scope = "{self.scope}", and the model has none: widen it'
            )
        return weights

    def size(self, state: State) -> int:
        """The number of weights that sparsity is a share of."""
        if self.scope == "all":
            return sum(p.numel() for p in state.model.parameters() if p.ndim > 1)
        return sum(weight.numel() for weight in self.weights(state).values())

    def gone(self, state: State) -> int:
        """How many of them the masks so far prune."""
        return sum(int((~state.masks[name]).sum()) for name in self.weights(state) if name in state.masks)

    def masks(
        self, state: State, scores: Mapping[str, Tensor], sparsity: float, *, per: Per = "network"
    ) -> dict[str, Tensor]:
        """All masks of the state, with those in scope chosen anew.

        Args:
            state: What its masks prune stays pruned.
            scores: Of the weights in scope, by name; the lowest go.
            sparsity: Share to prune, in [0, 1).
            per: Whether scores are compared over the network, or each layer gives its share.

        Returns:
            Name to mask.

        Raises:
            DataError: No score differs from zero, or a layer would be left without weights.
        """
        if not any(bool(score.any()) for score in scores.values()):
            raise DataError(
                "expected scores that tell weights apart, but all are 0: nothing flows through the model (a "
                "head that begins at zero, dead units, an input far from its range); train first, or take "
                "`random`"
            )
        masks = keep_largest(scores, sparsity, of=self.size(state), per=per, kept=state.masks)
        if self.empty == "refuse":
            _check_kept(masks, sparsity)
        return {**state.masks, **masks}


def _check_kept(masks: Mapping[str, Tensor], sparsity: float) -> None:
    for name, mask in masks.items():
        if not bool(mask.any()):
            raise DataError(
                f"expected to keep a weight in every layer, but at sparsity {sparsity:.4g} none of the "
                f'{mask.numel()} of "{name}" is left, and nothing passes a layer of zeros: prune less, or '
                'the same share of each layer; where a branch goes around this one, set empty = "allow"'
            )


@dataclass(frozen=True, kw_only=True)
class Sampled(Choice):
    """What a way to prune can be told that scores weights on a few rows of the pool."""

    sparsity: Sparsity = 0.95
    per: Per = "network"
    samples: Samples = 100
    chunk: Chunk = 128

    @property
    def reads(self) -> frozenset[Role]:
        """The pool; nothing at sparsity 0."""
        return frozenset({"pool"}) if self.sparsity else frozenset()

    def gradients(self, split: Split) -> float:
        """For estimates: one of each row that the scores look at."""
        return min(self.samples, len(split.pool)) if self.sparsity else 0.0

    def chunks(self, state: State, run: Run) -> list[Rows]:
        """The rows to score on, from the stream "rows"."""
        drawn = state.pool.sample(self.samples, run.rng("rows"))
        return [(batch.x, batch.y) for batch in drawn.once(batch=self.chunk)]


def scratch(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy in which only these weights require gradients, whether or not they do in the model."""
    copy = copy_model(model).requires_grad_(False)
    for name in weights:
        copy.get_parameter(name).requires_grad_(True)
    return copy
