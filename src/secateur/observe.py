"""The bridge: models in, arrays out. The only place where a judged model is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from secateur.data import View
from secateur.errors import DataError, NotFinite
from secateur.network import probe, sparsity_of
from secateur.outputs import Outputs
from secateur.run import Run


def observe(
    model: nn.Module, views: Mapping[str, View], run: Run, *, features: str | None = None
) -> Mapping[str, Outputs]:
    """Ask a model about the rows of every view, in evaluation mode, in fp32 or wider, never under autocast.

    Args:
        model: Returns logits [b, classes]; left as it was.
        views: View name to rows: a ``Split``, or any mapping.
        run: Where to compute.
        features: Name of a submodule whose input to keep as features [n, d] (the head's gives the penultimate
            layer).

    Returns:
        View name to outputs: logits [n, classes] as float32, labels [n], rows [n].

    Raises:
        NotFinite: The model returned NaN or infinity.
        DataError: The model does not return logits, a label is outside them, or there is no submodule
            ``features``.
    """
    with (
        run.steady(tf32=False),
        run.seeded("observe"),
        _as_judged(model, run),
        _watching(model, features) as seen,
    ):
        outputs = {name: _ask(model, name, view, run, seen) for name, view in views.items()}
    if features is not None and any(out.features is None for out in outputs.values()):
        raise DataError(f'expected the model to call "{features}", but it never did: name another submodule')
    return outputs


def measure(before: nn.Module, after: nn.Module) -> dict[str, float]:
    """Scalars that only models give.

    Args:
        before: The model that unlearning started from.
        after: The unlearned one, of the same architecture.

    Returns:
        "sparsity.before" and "sparsity.after" (share of zeros among parameters with more than one dimension),
        and "distance" (l2 between the two, over all parameters).
    """
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    square = sum(float((a.detach().double() - b.detach().double()).square().sum()) for a, b in pairs)
    return {
        "sparsity.before": sparsity_of(before),
        "sparsity.after": sparsity_of(after),
        "distance": square**0.5,
    }


def _ask(model: nn.Module, name: str, view: View, run: Run, seen: list[Tensor]) -> Outputs:
    if not len(view):
        raise DataError(f'expected rows to ask the model about in "{name}", got an empty view: leave it out')
    view = view.on(run.where, run.dtype, torch.contiguous_format)
    probe(model, next(iter(view.fresh().once(batch=2))).x)
    logits, labels, rows, features = [], [], [], []
    for batch in view.once():
        seen.clear()
        logits.append(model(batch.x).float().cpu())
        labels.append(batch.y.cpu())
        rows.append(batch.row.cpu())
        features += [part.flatten(1).float().cpu() for part in seen]
    answers = torch.cat(logits).numpy()
    if not np.isfinite(answers).all():
        bad = int((~np.isfinite(answers).all(axis=1)).sum())
        raise NotFinite(
            f"expected finite logits, but the model returned NaN or infinity for {bad} of {len(answers)} "
            f'rows of "{name}": nothing can be judged by them'
        )
    kept = torch.cat(features).numpy() if features else None
    return Outputs(answers, torch.cat(labels).numpy(), torch.cat(rows).numpy(), kept)


@contextmanager
def _as_judged(model: nn.Module, run: Run) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast; the modes are put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(run.where.type, enabled=False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _watching(model: nn.Module, name: str | None) -> Iterator[list[Tensor]]:
    """The inputs of a submodule, as they come."""
    seen: list[Tensor] = []
    if name is None:
        yield seen
        return
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        raise DataError(
            f'expected features="{name}" to name a submodule, got none of these: '
            f"{', '.join(list(modules)[1:9])} ..."
        )
    handle = modules[name].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()
