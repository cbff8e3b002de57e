"""State: a model between two steps, the data it may be shown, its pruning masks, and what has shaped it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.data import Role, Split, View
from secateur.errors import DataError, told
from secateur.run import Run

Scope = Literal["all", "conv", "linear"]


@dataclass(frozen=True, eq=False)
class Mark:
    """A model at an epoch of its training, kept for rewinding.

    Attributes:
        weights: Parameter name to value.
        buffers: Buffer name to value.
        epoch: Epochs of the schedule done.
        saw: The roles that had shaped the weights by then.
    """

    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    epoch: int
    saw: frozenset[Role] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, epoch: int, saw: frozenset[Role]) -> Mark:
        """A copy of what the model is now."""
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        return cls(weights, buffers, epoch, saw)

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
        _check_repeats(state.model, state.fresh(run).model)
        if model is not None:
            if split.drawn_holdout:
                raise DataError(
                    "expected holdout rows that the given model never saw, got a share drawn at random: it "
                    "may have been trained on them; name rows in `holdout`, or leave it out"
                )
            check_fits(model.state_dict(), state.model)
            model = copy_model(model).to(run.where, run.dtype).eval()
            state = replace(state, model=model, weights_saw=frozenset({"pool"}))
        classes = probe(state.model, state.pool)
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

    def pruned(self, masks: Mapping[str, Tensor], *, saw: frozenset[Role] = frozenset()) -> State:
        """The same state under new masks, its pruned weights filled with zeros.

        Args:
            masks: Parameter name to a boolean tensor, True = kept.
            saw: Roles whose rows the choice itself looked at; what the weights saw is added.

        Returns:
            The state; ``model`` is changed in place.
        """
        fill(self.model, masks)
        same = masks.keys() == self.masks.keys() and all(torch.equal(masks[k], self.masks[k]) for k in masks)
        seen = self.masks_saw if same else self.masks_saw | self.weights_saw | saw
        return replace(self, masks=dict(masks), masks_saw=seen)

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


@torch.no_grad()
def fill(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to +0.0; filled, not multiplied: w * mask leaves -0.0, which shows the sign of w."""
    weights = dict(model.named_parameters())
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask, 0.0)


def sparsity_of(model: nn.Module) -> float:
    """Share of zeros among parameters with more than one dimension; 0 where there are none."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return sum(int((p == 0).sum()) for p in weights) / max(1, sum(p.numel() for p in weights))


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy.

    Args:
        model: Any module.

    Returns:
        A copy that shares no memory with it.

    Raises:
        DataError: It holds something that cannot be copied, such as an activation with a graph behind it.
    """
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"expected a model that can be copied, got one that cannot ({told(error)}): it keeps an "
            "activation or a handle as an attribute; keep it out of the module, or detach it"
        ) from error


def _check_repeats(model: nn.Module, again: nn.Module) -> None:
    if model is again:
        raise DataError(
            "expected `build` to make a new model at every call, got the same object twice: a step that "
            "starts anew would go on from trained weights; hand over a function that makes one, and a "
            "trained model as State.of(..., model=...)"
        )
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or is_lazy(value):
            raise DataError(
                f'expected weights and buffers that are there from the start, but "{name}" is '
                f"{type(value).__name__}: no checkpoint could hold it; give layers their sizes"
            )
    pairs = zip(model.state_dict().items(), again.state_dict().items(), strict=True)
    odd = [name for (name, first), (_, second) in pairs if not torch.equal(first, second)]
    if odd:
        raise DataError(
            f"expected `build` to draw initial weights from torch's global generator, but {odd[0]} differs "
            "between two calls under one seed: no retraining could be repeated; use torch.nn.init"
        )


def check_fits(weights: Mapping[str, Tensor], like: nn.Module) -> None:
    """Check that weights load strictly into an architecture.

    Args:
        weights: Parameter and buffer names to tensors, as a state dict has them.
        like: The architecture.

    Raises:
        DataError: Names or shapes differ; the message names the first few.
    """
    got = {name: tuple(value.shape) for name, value in weights.items()}
    want = {name: tuple(value.shape) for name, value in like.state_dict().items()}
    faults = [f"{name} is missing" for name in want.keys() - got.keys()]
    faults += [f"{name} is not in the architecture" for name in got.keys() - want.keys()]
    faults += [
        f"{name} has shape {got[name]}, not {want[name]}"
        for name in want.keys() & got.keys()
        if got[name] != want[name]
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DataError(
            "expected weights that fit the architecture exactly, but " + "; ".join(sorted(faults)[:3]) + more
        )


def probe(model: nn.Module, view: View) -> int:
    """Ask a model about two rows.

    Args:
        model: In evaluation mode.
        view: Where the rows are from; the look is not counted.

    Returns:
        The number of classes.

    Raises:
        DataError: The model fails on a batch, or does not return logits [b, classes].
    """
    batch = next(iter(view.fresh().once(batch=2)))
    try:
        with torch.no_grad():
            logits = model(batch.x)
    except Exception as error:  # a model of somebody else's can raise anything
        shape = (
            tuple(batch.x.shape)
            if isinstance(batch.x, Tensor)
            else {k: tuple(v.shape) for k, v in batch.x.items()}
        )
        raise DataError(
            f"expected a model that takes a batch of shape {shape}, but it raised {told(error)}: "
            "correct the model, or the shape of the data"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(batch.y):
        got = (
            f"a tensor of shape {tuple(logits.shape)}"
            if isinstance(logits, Tensor)
            else type(logits).__name__
        )
        raise DataError(
            f"expected a model that returns logits [b, classes], got {got}: wrap it in a module whose "
            "forward returns the logits alone"
        )
    return int(logits.shape[1])
