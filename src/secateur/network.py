"""What is asked of any network: that it can be copied, repeated, saved and put a question to."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from secateur.errors import DataError, SecateurError, told

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fill(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to +0.0; filled, not multiplied: w * mask leaves -0.0, which shows the sign of w."""
    weights = dict(model.named_parameters())
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask, 0.0)


def sparsity_of(model: nn.Module) -> float:
    """Share of zeros among parameters with more than one dimension; 0 where there are none."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    size = sum(p.numel() for p in weights)
    return (size - sum(int(p.count_nonzero()) for p in weights)) / max(1, size)


def is_finite(value: Tensor) -> bool:
    """Whether no entry is NaN or infinite; in one pass, where ``isfinite`` makes another tensor."""
    if not value.is_floating_point() or not value.numel():
        return bool(torch.isfinite(value).all())
    low, high = value.detach().aminmax()  # NaN is both
    return math.isfinite(low) and math.isfinite(high)


def is_zeroed(weight: Tensor, mask: Tensor) -> bool:
    """Whether all masked entries are +0.0, whose bits are all 0."""
    bits = weight.detach().view(_BITS[weight.element_size()])
    return not bool((bits != 0).greater(mask).any())


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


def check_repeats(model: nn.Module, again: nn.Module) -> None:
    """Check what two calls of one ``build`` under one seed gave.

    Args:
        model: The first.
        again: The second.

    Raises:
        DataError: They are one object, differ in their weights, or hold what no checkpoint could.
    """
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


def check_fits(weights: Mapping[str, Tensor], like: nn.Module, *, whole: bool = False) -> None:
    """Check that weights load strictly into an architecture.

    A file may lack what its modules can do without: buffers that they name in a class attribute ``may_lack``
    (constants, which then stand as they were built), and the count of batches in batch norm.

    Args:
        weights: Parameter and buffer names to tensors, as a state dict has them.
        like: The architecture.
        whole: Nothing may be lacking: a model that does without is another architecture.

    Raises:
        DataError: Names or shapes differ; the message names the first few.
    """
    got = {name: tuple(value.shape) for name, value in weights.items()}
    want = {name: tuple(value.shape) for name, value in like.state_dict().items()}
    lacking = want.keys() - got.keys() - (set() if whole else _may_lack(like, got))
    faults = [f"{name} is missing" for name in lacking]
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


def _may_lack(model: nn.Module, got: Collection[str]) -> set[str]:
    found = set()
    for path, module in model.named_modules():
        plain = ("num_batches_tracked",) if isinstance(module, _BatchNorm) else ()
        names = {f"{path}.{name}".lstrip(".") for name in getattr(module, "may_lack", plain)}
        if names.isdisjoint(got):  # half of them is damage
            found |= names
    return found


def probe(model: nn.Module, x: Tensor | Mapping[str, Tensor]) -> int:
    """Ask a model about a few rows.

    Args:
        model: In evaluation mode.
        x: [b, ...], or a mapping of such.

    Returns:
        The number of classes.

    Raises:
        DataError: The model fails on a batch, or does not return logits [b, classes].
        SecateurError: The model says so by itself.
    """
    try:
        with torch.no_grad():
            logits = model(x)
    except SecateurError:  # it says by itself what is wrong
        raise
    except Exception as error:  # a model of somebody else's can raise anything
        shape = tuple(x.shape) if isinstance(x, Tensor) else {k: tuple(v.shape) for k, v in x.items()}
        raise DataError(
            f"expected a model that takes a batch of shape {shape}, but it raised {told(error)}: "
            "correct the model, or the shape of the data"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != _length(x):
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


def _length(x: Tensor | Mapping[str, Tensor]) -> int:
    return len(x if isinstance(x, Tensor) else next(iter(x.values())))


def find_head(model: nn.Module, x: Tensor | Mapping[str, Tensor]) -> str:
    """Find the layer whose output the logits are.

    Args:
        model: In evaluation mode.
        x: A batch that it takes.

    Returns:
        The path of a ``torch.nn.Linear`` that is called once and shares its weights with no other layer; ""
        where it is the model itself.

    Raises:
        DataError: There is none.
    """
    made: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _module, _x, out, path=path: made.append((path, out)))
        for path, module in model.named_modules()
        if type(module) is nn.Linear
    ]
    try:
        with torch.no_grad():
            logits = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    calls = [path for path, _ in made]
    shared = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    for path, out in made:
        own = [shared.count(id(p)) for p in model.get_submodule(path).parameters()]
        if out is logits and calls.count(path) == 1 and set(own) == {1}:
            return path
    raise DataError(
        "expected a head that is a torch.nn.Linear, called once, with weights of its own, whose output is "
        "the logits, got a model without one: no part of it is known to be the classifier; end the model "
        "with such a layer"
    )
