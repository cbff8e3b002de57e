"""A model as a function of some of its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from secateur.errors import DataError, NotFinite, UsageError, nearest
from secateur.maths.curvature.passes import Rows, row_slice

BUDGET = 2**29  # bytes


def choose(model: nn.Module, names: Iterable[str] | None) -> dict[str, Tensor]:
    """The parameters that a gradient is taken in, and whether one can be taken row by row.

    Args:
        model: Any module.
        names: Which parameters; None: those that require gradients.

    Returns:
        Name to the parameter, detached.

    Raises:
        UsageError: There is none, a name is unknown, or rows would not be looked at one by one.
    """
    known = dict(model.named_parameters())
    chosen = [name for name, p in known.items() if p.requires_grad] if names is None else list(names)
    if not chosen:
        raise UsageError(
            "expected a model with parameters to update, got none: every gradient would be empty; call "
            "requires_grad_() on what may change, or name it"
        )
    for name in chosen:
        if name not in known:
            raise UsageError(f'the model has no parameter "{name}", {nearest(name, known)}')
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise UsageError(
                f'expected batch norm in evaluation mode with running statistics, got "{path}" with those of '
                "the batch: a row's gradient would then depend on its neighbours (and one row alone has no "
                "variance); call model.eval() first"
            )
        if isinstance(module, _DropoutNd) and module.training and module.p > 0:
            raise UsageError(
                f'expected a model that answers the same twice, got dropout "{path}" in training mode: each '
                "pass would see another matrix; call model.eval() first"
            )
    return {name: known[name].detach() for name in chosen}


def logits_of(model: nn.Module, weights: Mapping[str, Tensor], x: Rows) -> Tensor:
    """Logits [b, classes] under these weights, the others as they are but constant."""
    rest = {name: p.detach() for name, p in model.named_parameters() if name not in weights}
    logits: Tensor = functional_call(model, {**rest, **weights}, (x,))
    return logits


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Check what the model said.

    Args:
        logits: From the model.
        y: The classes [b].

    Raises:
        DataError: These are no logits [b, classes], or a class has none.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(y):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise DataError(
            f"expected logits [{len(y)}, classes], got {got}: cross-entropy needs one score for each class; "
            "wrap the model in a module that returns the logits alone"
        )
    check_classes(logits, y)


def check_classes(logits: Tensor, y: Tensor) -> None:
    """Check that the model has a logit for every class.

    Args:
        logits: Of some rows.
        y: The classes [b] of these or others.

    Raises:
        DataError: A class has none.
    """
    if bool(((y < 0) | (y >= logits.shape[1])).any()):
        raise DataError(
            f"expected classes from 0 to {logits.shape[1] - 1}, got {int(y.min())} to {int(y.max())}: the "
            "model has no logit for them; take a model with more classes, or leave these rows out"
        )


def error_signal(logits: Tensor, y: Tensor) -> Tensor:
    """The gradient of cross-entropy in the logits, softmax - one-hot: [b, classes]."""
    others = logits.softmax(1).scatter(1, y[:, None], 0.0)
    # p - 1 would lose the digits of a confident model; minus the sum of the others keeps them
    return others.scatter(1, y[:, None], -others.sum(1, keepdim=True))


def check_finite(found: Mapping[str, Tensor], what: str = "gradient") -> None:
    """Check that nothing overflowed.

    Args:
        found: Name to tensor.
        what: What they are.

    Raises:
        NotFinite: One is NaN or infinite.
    """
    for name, value in found.items():
        if not bool(value.isfinite().all()):
            raise NotFinite(
                f'expected a finite {what}, got NaN or infinity for "{name}": one such row spoils the mean '
                "over all; look for infinite inputs or weights, normalise the data, or use fp64"
            )


def row_bytes(model: nn.Module, weights: Mapping[str, Tensor], x: Rows) -> int:
    """What autograd keeps of one row."""
    known = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    free = {name: w.detach().requires_grad_() for name, w in weights.items()}
    one = row_slice(x, slice(0, 1))
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        logits_of(model, free, one)
    inputs = [one] if isinstance(one, Tensor) else one.values()
    return sum(kept.values()) + sum(value.nbytes for value in inputs)


def rows_in(budget: float, each: float) -> int:
    """How many rows fit.

    Args:
        budget: Bytes.
        each: Bytes of one row.

    Returns:
        At least 1.

    Raises:
        UsageError: The budget is none.
    """
    if not budget > 0 or math.isinf(budget):
        raise UsageError(f"expected a memory budget in bytes above 0, got {budget}: nothing fits into it")
    return max(1, int(budget // max(each, 1)))
