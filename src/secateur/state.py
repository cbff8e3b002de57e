"""State: a model between two steps, the data it may be shown, its pruning masks, and what has shaped it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.data import Role, View
from secateur.errors import DataError, UsageError
from secateur.network import check_fits, check_repeats, copy_model, fill, probe, sparsity_of
from secateur.run import Run
from secateur.split import Split

Scope = Literal["all", "conv", "linear"]


@dataclass(frozen=True, eq=False)
class Mark:
    """A model at an epoch of its training, kept for rewinding.

    Attributes:
        weights: Parameter name to value.
        buffers: Buffer name to value.
        epoch: Epochs of the schedule done.
        saw: The roles that had shaped the weights by then.
        total: Epochs of the whole schedule; None: not known.
    """

    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    epoch: int
    saw: frozenset[Role] = frozenset()
    total: int | None = None

    @classmethod
    def of(cls, model: nn.Module, epoch: int, saw: frozenset[Role], total: int | None = None) -> Mark:
        """A copy of what the model is now."""
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        return cls(weights, buffers, epoch, saw, total)

    def check_schedule(self, epochs: int) -> None:
        """Refuse to go on along another schedule than the one that the mark was kept in.

        Args:
            epochs: Of the schedule that is to be gone on with.

        Raises:
            UsageError: It has another length.
        """
        if self.total not in (None, epochs):
            raise UsageError(
                f"expected to go on along the schedule of {self.total} epochs in which epoch {self.epoch} "
                f"was marked, got epochs = {epochs}: the learning rate would jump; set epochs = {self.total}"
            )

    def clone(self) -> Mark:
        """A copy that shares no memory."""
        weights = {name: value.clone() for name, value in self.weights.items()}
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        return replace(self, weights=weights, buffers=buffers)


@dataclass(frozen=True, eq=False)
class State:
    """A model between two steps.

    Attributes:
        model: Returns logits [b, classes]; in evaluation mode between steps.
        build: Makes the same architecture, newly initialised.
        pool: Forget and retain together, blind to which is which.
        forget: The rows to forget.
        retain: The rest of the pool.
        masks: Parameter name to a boolean tensor of its shape, True = kept.
        marks: Name ("epoch-2") to a model kept for rewinding. Never exported; unlearning drops them.
        depth: Steps taken so far.
        weights_saw: The roles that have shaped the weights.
        masks_saw: The roles that have shaped the masks.
    """

    model: nn.Module
    build: Callable[[], nn.Module]
    pool: View
    forget: View
    retain: View
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    marks: Mapping[str, Mark] = field(default_factory=dict)
    depth: int = 0
    weights_saw: frozenset[Role] = frozenset()
    masks_saw: frozenset[Role] = frozenset()

    @classmethod
    def of(
        cls, build: Callable[[], nn.Module], split: Split, run: Run, *, model: nn.Module | None = None
    ) -> State:
        """The state before the first step.

        Args:
            build: Makes a newly initialised model that returns logits [b, classes].
            split: The data; only its pool can be reached from the state.
            run: Where to compute; its stream "init" initialises the model.
            model: One trained elsewhere, of the architecture that ``build`` makes; it is copied, and counts
                as having seen the pool.

        Returns:
            The state.

        Raises:
            DataError: ``build`` makes no new model or cannot repeat one; the model does not fit it or the
                data, cannot be copied, or was trained elsewhere while the holdout was drawn as a share (it
                may have seen those rows).
        """
        state = cls(nn.Identity(), build, split.pool, split.forget, split.retain).on(run).fresh(run)
        check_repeats(state.model, state.fresh(run).model)
        if model is not None:
            if split.drawn_holdout:
                raise DataError(
                    "expected holdout rows that the given model never saw, got a share drawn at random: it "
                    "may have been trained on them; name rows in `holdout`, or leave it out"
                )
            check_fits(model.state_dict(), state.model, whole=True)
            model = copy_model(model).to(run.where, run.dtype).eval()
            state = replace(state, model=model, weights_saw=frozenset({"pool"}))
        classes = probe(state.model, next(iter(state.pool.fresh().once(batch=2))).x)  # not counted
        if split.classes > classes:
            raise DataError(
                f"expected labels in 0..{classes - 1}, one for each logit of the model, got label "
                f"{split.classes - 1}: build the model with {split.classes} classes, or correct the labels"
            )
        return state

    def on(self, run: Run) -> State:
        """The same state with its views drawing where and how this run computes."""
        pool, forget, retain = (
            view.on(run.where, run.dtype, run.layout) for view in (self.pool, self.forget, self.retain)
        )
        return replace(self, pool=pool, forget=forget, retain=retain)

    def fresh(self, run: Run) -> State:
        """The same state with a newly initialised model (from the stream "init"), which no row has shaped.

        Masks stay; ``optimize`` fills the pruned weights before it starts.

        Args:
            run: Where to put it, and the seed.

        Returns:
            The state.

        Raises:
            DataError: ``build`` makes something that is no module.
        """
        with run.steady(), run.seeded("init"):
            model = self.build()
        if not isinstance(model, nn.Module):
            raise DataError(
                f"expected `build` to return a torch.nn.Module, got {type(model).__name__}: hand over a "
                "function that makes a new model"
            )
        return replace(self, model=model.to(run.where, run.dtype).eval(), weights_saw=frozenset())

    def pruned(self, masks: Mapping[str, Tensor], *, saw: frozenset[Role] | None = None) -> State:
        """The same state under new masks, its pruned weights filled with zeros.

        Args:
            masks: Parameter name to a boolean tensor, True = kept.
            saw: The roles that shaped the choice: none for one that looked at neither rows nor weights. What
                shaped the masks so far is added, unless weights grow back. None: by weights, so that what
                shaped these and the masks so far is taken over.

        Returns:
            The state; ``model`` is changed in place.
        """
        fill(self.model, masks)
        same = masks.keys() == self.masks.keys() and all(torch.equal(masks[k], self.masks[k]) for k in masks)
        if same:
            return replace(self, masks=dict(masks))
        if saw is None:
            return replace(self, masks=dict(masks), masks_saw=self.masks_saw | self.weights_saw)
        held = all(k in masks and not bool((masks[k] & ~mask).any()) for k, mask in self.masks.items())
        return replace(self, masks=dict(masks), masks_saw=saw | (self.masks_saw if held else frozenset()))

    def rewound(self, name: str) -> State:
        """The same state with the weights and buffers of a mark; masks stay.

        Args:
            name: The mark's, as in ``marks``.

        Returns:
            The state; ``model`` is changed in place.

        Raises:
            DataError: There is no such mark.
        """
        if name not in self.marks:
            kept = ", ".join(sorted(self.marks)) or "none"
            epoch = name.removeprefix("epoch-")
            raise DataError(
                f'expected a mark "{name}" to rewind to, got these: {kept}; let the training step keep it: '
                f"keep = [{epoch}]"
            )
        mark = self.marks[name]
        kept_values = {**mark.weights, **mark.buffers}
        with torch.no_grad():
            # by name, not by state dict: that leaves out buffers that are not persistent
            for key, value in [*self.model.named_parameters(), *self.model.named_buffers()]:
                value.copy_(kept_values[key])
        fill(self.model, self.masks)
        return replace(self, weights_saw=mark.saw)

    @property
    def sparsity(self) -> float:
        """Share of zeros among parameters with more than one dimension."""
        return sparsity_of(self.model)

    def prunable(self, scope: Scope = "all") -> dict[str, nn.Parameter]:
        """The weights that pruning may take: of convolutions and of linear layers (attention's among them).

        Args:
            scope: "conv" or "linear" takes one kind only.

        Returns:
            Parameter name to parameter, in the model's order.
        """
        wanted: set[int] = set()
        for module in self.model.modules():
            conv = isinstance(module, nn.modules.conv._ConvNd)
            linear = isinstance(module, (nn.Linear, nn.Bilinear, nn.MultiheadAttention))
            if (conv and scope != "linear") or (linear and scope != "conv"):
                own = module.named_parameters(recurse=False)
                wanted |= {id(p) for name, p in own if "weight" in name and p.ndim > 1}
        return {name: p for name, p in self.model.named_parameters() if id(p) in wanted}
