"""A model as a function of some of its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

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
    return {name: known[name].detach() for name in chosen}


def logits_of(model: nn.Module, weights: Mapping[str, Tensor], x: Rows) -> Tensor:
    """What the model says, with copies of x and of its buffers in case that it writes into them.

    Args:
        model: The model.
        weights: Parameters, by name; the others are as they are, and constant.
        x: Rows.

    Returns:
        Logits [b, classes].

    Raises:
        DataError: It says something else.
    """
    rest = {name: p.detach() for name, p in model.named_parameters() if name not in weights}
    rest |= {name: b.clone() for name, b in model.named_buffers() if name not in weights}
    rows = x.clone() if isinstance(x, Tensor) else {name: value.clone() for name, value in x.items()}
    count = len(x if isinstance(x, Tensor) else next(iter(x.values())))
    logits = functional_call(model, {**rest, **weights}, (rows,))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise DataError(
            f"expected logits [{count}, classes], got {got}: cross-entropy needs one score for each class; "
            "wrap the model in a module that returns the logits alone"
        )
    return logits


def pull(
    logits: Tensor,
    weights: Mapping[str, Tensor],
    signal: Tensor | None = None,
    *,
    keep: bool = False,
    graph: bool = False,
) -> dict[str, Tensor]:
    """J' s, with J the derivative of the logits.

    Args:
        logits: With a graph, or without one where no weight leads to them.
        weights: Name to the leaves of that graph.
        signal: s [b, classes]; none for a scalar.
        keep: The graph is needed again.
        graph: The result is differentiated too.

    Returns:
        Name to the sum over rows.
    """
    leaves = list(weights.values())
    if not logits.requires_grad:
        return {name: torch.zeros_like(w) for name, w in weights.items()}
    parts = torch.autograd.grad(
        logits, leaves, signal, retain_graph=keep or graph, create_graph=graph, materialize_grads=True
    )
    return dict(zip(weights, parts, strict=True))


def agreeing(found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> set[str]:
    """The names under which two ways to a gradient agree.

    Args:
        found: Name to a gradient.
        true: Name to what it should be.

    Returns:
        Those far nearer than any fault would be, and those that are nothing but rounding.
    """
    whole = sum(float(value.norm()) ** 2 for value in true.values()) ** 0.5
    return {
        name
        for name, value in found.items()
        if float((value - true[name]).norm())
        <= 1e-2 * float(true[name].norm()) + 100 * torch.finfo(value.dtype).eps * whole
    }


def probe_signal(logits: Tensor) -> Tensor:
    """A gradient in the logits that is like no other: [b, classes]."""
    return torch.arange(logits.numel(), dtype=logits.dtype, device=logits.device).cos().view_as(logits)


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


def look(model: nn.Module, weights: Mapping[str, Tensor], x: Rows) -> int:
    """Look at one row, before anything else does.

    Args:
        model: The model.
        weights: The parameters that a gradient is taken in.
        x: Rows, of which the first is taken.

    Returns:
        How many bytes autograd keeps of it.

    Raises:
        DataError: The model does not return logits.
        UsageError: It draws random numbers, or writes into its parameters.
    """
    one = row_slice(x, slice(0, 1))
    inputs = [one] if isinstance(one, Tensor) else list(one.values())
    own = {name: t.detach().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    free = {name: t.requires_grad_(name in weights) for name, t in own.items()}
    known = {t.untyped_storage().data_ptr() for t in own.values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    devices = list({value.device for value in inputs if value.is_cuda})
    with torch.random.fork_rng(devices), torch.enable_grad():
        before = _streams(devices)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits_of(model, free, one)
        drew = any(not torch.equal(a, b) for a, b in zip(before, _streams(devices), strict=True))
    if drew:
        raise UsageError(
            "expected a model that answers the same twice, got one that draws random numbers (dropout in "
            "training mode?): each pass would see another matrix; call model.eval() first"
        )
    for name, _ in model.named_parameters():
        if own[name]._version:
            raise UsageError(
                f'expected a model that leaves its parameters alone, got one that writes into "{name}" as it '
                "looks at rows (max_norm of an embedding?): its curvature would be that of another model; "
                "turn that off"
            )
    return sum(kept.values()) + sum(value.nbytes for value in inputs)


def _streams(devices: Iterable[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


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
        raise UsageError(
            f"expected a finite memory budget above 0, in bytes, got {budget}: rows are cut to fit it; "
            "give some megabytes"
        )
    return max(1, int(budget // max(each, 1)))
