"""The only training loop: methods hand it a loss; it owns optimizer, masks, precision and refusing NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.data import Batch, Loader, Role
from secateur.errors import DataError, NotFinite, UsageError
from secateur.maths.schedules import constant
from secateur.run import Run
from secateur.state import State

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent, as data.

    Attributes:
        lr: Learning rate, per update.
        momentum: In [0, 1).
        nesterov: Nesterov's momentum.
        decay: Weight decay, on every parameter.
        schedule: Progress in [0, 1) to the factor on ``lr``.
        ascend: Climb the loss instead of descending it.
        sharpness: Radius rho of adaptive sharpness-aware minimisation (Kwon et al., ASAM, ICML 2021): the
            gradient is taken at w + e, with e = rho w^2 g / || |w| g ||_2 over all trainable parameters and g
            the gradient at w, so each update costs two passes; 0: at w. In [0, inf).

    Raises:
        UsageError: A number out of bounds, or Nesterov's momentum without momentum.
    """

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    decay: float = 0.0
    schedule: Callable[[float], float] = constant
    ascend: bool = False
    sharpness: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            raise UsageError(
                f"expected a schedule from progress to a factor, got {self.schedule!r}: take one of "
                "secateur.maths.schedules"
            )
        numbers = self.lr, self.momentum, self.decay, self.sharpness
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise UsageError("expected lr, momentum, decay and sharpness as numbers: words climb nowhere")
        if not (0 < self.lr < math.inf and 0 <= self.momentum < 1 and 0 <= self.decay < math.inf):
            raise UsageError(
                f"expected lr > 0, momentum in [0, 1) and decay >= 0, got {self.lr}, "
                f"{self.momentum} and {self.decay}"
            )
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov looks ahead along the momentum, and momentum is 0: set one of them")
        if not 0 <= self.sharpness < math.inf:
            raise UsageError(
                f"expected sharpness >= 0, the radius in which the loss is to be flat, got {self.sharpness}"
            )
        if self.ascend and self.sharpness:
            raise UsageError(
                "sharpness looks for the worst loss nearby in order to lower it, and ascend climbs the loss: "
                "set one of them"
            )


@dataclass(frozen=True, kw_only=True)
class Plainly:
    """A training that does nothing but ``optimize`` cross-entropy on one role: several can be done at once.

    Attributes:
        role: The rows.
        epochs: Passes over them.
        batch: Rows per update, at most.
        sgd: How to descend.
        smoothing: Of the labels.
    """

    role: Role
    epochs: int
    batch: int
    sgd: Sgd
    smoothing: float = 0.0


def cross_entropy(model: nn.Module, batch: Batch, progress: float, smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy of a batch, in nats: the loss of most steps.

    Args:
        model: Gives logits [b, classes].
        batch: Inputs and labels.
        progress: Not used.
        smoothing: Share of each target that is spread evenly over all classes, the true one among them
            (Szegedy et al., CVPR 2016); in [0, 1).

    Returns:
        A scalar.
    """
    return functional.cross_entropy(model(batch.x), batch.y, label_smoothing=smoothing)


def optimize(
    state: State,
    loader: Loader[Item],
    loss: Callable[[nn.Module, Item, float], Tensor],
    *,
    optimizer: Sgd,
    clip: float | None = None,
    norms: Literal["batch", "frozen"] = "batch",
    proximal: Callable[[Tensor, float, float], Tensor] | None = None,
    after_epoch: Callable[[State, int], State | None] | None = None,
    run: Run,
) -> State:
    """Train ``state.model`` in place.

    With ``optimizer.sharpness`` every batch is passed twice, at w and at w + e. The second pass normalises by
    the batch, as training does, and its dropout draws anew, but all buffers, batch-norm's running statistics
    among them, are put back after it: they follow the weights that stay, and count each batch once. The noted
    loss is that at w. Pruned weights are zero, so e does not move them.

    Args:
        state: Its model is changed; pruned weights are filled with zeros before the first and after every
            update.
        loader: Batches, or pairs of them; one pass.
        loss: Model, item and progress (updates done / updates to do, in [0, 1)) to a scalar.
        optimizer: How to descend.
        clip: Largest l2 norm of the whole gradient; None: no clipping.
        norms: "frozen" keeps batch-norm layers in evaluation mode: their statistics are used and do not move.
        proximal: ``proximal(weight, step, progress)`` after each update, for each trainable parameter;
            returns the new weight (or the same tensor: unchanged). With ``step = lr / (1 - momentum)`` the
            fixed point minimises loss + penalty, momentum or not.
        after_epoch: Called with the state and the number of epochs done; may return a state with other masks.
        run: Where to compute.

    Returns:
        The state, with the masks that ``after_epoch`` may have changed.

    Raises:
        NotFinite: The loss of an epoch became NaN or infinite.
        DataError: No parameter is trainable.
    """
    model = state.model
    if run.layout is torch.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    params = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise DataError("expected parameters to train, but requires_grad is False for all of them: thaw some")
    called = model
    if run.compile:
        torch.compiler.reset()  # what was compiled before must not decide which kernels run now
        called = torch.compile(model, dynamic=False)  # type: ignore[assignment]  # stubs: any callable
    sgd = torch.optim.SGD(
        params,
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        weight_decay=optimizer.decay,
        nesterov=optimizer.nesterov,
        maximize=optimizer.ascend,
        fused=True,
    )
    group = sgd.param_groups[0]
    total, inertia = len(loader), 1 - optimizer.momentum
    pruned = _pruned(model, state.masks)
    _zero(pruned)
    items, done = iter(loader), 0
    with run.progress.bar("training", total) as advance:
        for epoch in range(1, loader.epochs + 1):
            _train_mode(model, norms)  # at each epoch: ``after_epoch`` may have asked the model something
            losses = torch.zeros((), device=run.where, dtype=torch.float64)
            for _ in range(loader.updates):
                progress = done / total
                lr = group["lr"] = optimizer.lr * optimizer.schedule(progress)
                with run.autocast():
                    item = next(items)
                    value = loss(called, item, progress)
                sgd.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                if optimizer.sharpness:
                    with _uphill(model, params, optimizer.sharpness):
                        with run.autocast():
                            worst = loss(called, item, progress)
                        sgd.zero_grad()
                        worst.backward()  # type: ignore[no-untyped-call]
                if clip is not None:
                    nn.utils.clip_grad_norm_(params, clip, foreach=True)
                sgd.step()
                if proximal is not None:
                    _shrink(params, proximal, lr / inertia, progress)
                _zero(pruned)
                losses += value.detach()
                done += 1
            advance(loader.updates)
            mean = float(losses) / loader.updates
            if not torch.isfinite(losses):
                raise NotFinite(
                    f"expected a finite loss, got {mean} in epoch {epoch} of {loader.epochs}: lower lr (now "
                    f"{optimizer.lr}), or set clip"
                )
            run.note("loss", mean)
            if after_epoch is not None and (changed := after_epoch(state, epoch)) is not None:
                state = changed
                pruned = _pruned(model, state.masks)
                _zero(pruned)
    sgd.zero_grad()  # a step that goes on would add to what is left
    model.eval()
    return state


@contextmanager
def _uphill(model: nn.Module, params: list[nn.Parameter], radius: float) -> Iterator[None]:
    """Weights moved uphill along the gradients that they hold; then weights and buffers exactly as before."""
    weights = [p.detach() for p in params if p.grad is not None]
    gradients = [p.grad for p in params if p.grad is not None]
    # copies: w + e - e is not w, and a forward pass moves buffers of many kinds
    exact = [*weights, *model.buffers()]
    copies = [tensor.clone() for tensor in exact]
    climb = torch._foreach_mul(weights, gradients)
    norm = torch.stack(torch._foreach_norm(climb)).norm()
    torch._foreach_mul_(climb, weights)
    torch._foreach_mul_(climb, radius / norm.clamp_min(1e-30))  # where the loss is flat: stay
    torch._foreach_add_(weights, climb)
    yield
    torch._foreach_copy_(exact, copies)


def _train_mode(model: nn.Module, norms: Literal["batch", "frozen"]) -> None:
    model.train()
    if norms == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _pruned(model: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights and inverted masks to fill them by, made once: at half a millisecond an update it counts."""
    weights = dict(model.named_parameters())
    return [(weights[name].data, _like(~mask, weights[name])) for name, mask in masks.items()]


def _like(mask: Tensor, weight: Tensor) -> Tensor:
    # the weight's own memory order, or every fill walks the two in different orders
    return torch.empty_like(weight, dtype=torch.bool).copy_(mask)


def _zero(pruned: list[tuple[Tensor, Tensor]]) -> None:
    for weight, gone in pruned:
        weight.masked_fill_(gone, 0.0)


@torch.no_grad()
def _shrink(
    params: list[nn.Parameter],
    proximal: Callable[[Tensor, float, float], Tensor],
    step: float,
    progress: float,
) -> None:
    for p in params:
        shrunk = proximal(p, step, progress)
        if shrunk is not p:
            p.copy_(shrunk)
