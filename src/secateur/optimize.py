"""The only training loop: methods hand it a loss; it owns optimizer, masks, precision and refusing NaN."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from secateur import ranks, snapshot
from secateur.data import Batch, Loader, Role
from secateur.errors import DataError, NotFinite, UsageError
from secateur.maths.schedules import constant
from secateur.recompute import recomputing
from secateur.run import Run
from secateur.shares import shares
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
    done, losses = 0, torch.zeros((), device=run.where, dtype=torch.float64)
    with _callable(model, run) as called, run.progress.bar("training", total) as advance:
        if (held := run.checkpoints.begin()) is not None:
            state, done, losses = snapshot.restore(held, state, sgd, run)
            advance(done)
        pruned = _pruned(model, state.masks)
        _zero(pruned)
        items = loader.begin(done)
        for epoch in range(done // loader.updates, loader.epochs):
            # at each epoch: ``after_epoch`` may have asked the model something
            _train_mode(model, norms)
            _train_mode(called, norms)
            began = done
            for _ in range(done % loader.updates, loader.updates):
                if run.checkpoints.due(done):
                    run.checkpoints.keep(snapshot.take(state, sgd, done, losses, run))
                progress = done / total
                lr = group["lr"] = optimizer.lr * optimizer.schedule(progress)
                parts = shares(next(items), run.accumulate)
                losses += _slope(called, params, loss, parts, progress, run)
                if optimizer.sharpness:
                    with _uphill(model, params, optimizer.sharpness):
                        _slope(called, params, loss, parts, progress, run)
                if clip is not None:
                    nn.utils.clip_grad_norm_(params, clip, foreach=True)
                sgd.step()
                if proximal is not None:
                    _shrink(params, proximal, lr / inertia, progress)
                _zero(pruned)
                done += 1
            advance(done - began)
            ranks.add_up([losses])
            ranks.take_over(model.buffers())
            mean = float(losses) / loader.updates
            if not torch.isfinite(losses):
                raise NotFinite(
                    f"expected a finite loss, got {mean} in epoch {epoch + 1} of {loader.epochs}: lower lr "
                    f"(now {optimizer.lr}), or set clip"
                )
            run.note("loss", mean)
            losses.zero_()
            if after_epoch is not None and (changed := after_epoch(state, epoch + 1)) is not None:
                state = changed
                pruned = _pruned(model, state.masks)
                _zero(pruned)
        run.checkpoints.end(lambda: snapshot.take(state, sgd, done, losses, run))
    for p in params:
        p.grad = None  # a step that goes on would add to what is left
    model.eval()
    return state


def _slope(
    called: nn.Module,
    params: list[nn.Parameter],
    loss: Callable[[nn.Module, Item, float], Tensor],
    parts: list[tuple[float, Item]],
    progress: float,
    run: Run,
) -> Tensor:
    """Leave the batch's gradient in the parameters; gives this process's part of its loss."""
    for p in params:
        p.grad = None
    total = torch.zeros((), device=run.where, dtype=torch.float64)
    for i, (weight, part) in enumerate(parts):
        hold = getattr(called, "no_sync", nullcontext) if i + 1 < len(parts) else nullcontext
        with hold():
            with run.autocast():
                value = loss(called, part, progress)
            # processes share their gradients as a mean, whose weights must add up to their number
            scaled = value if weight == 1 else value * (weight * ranks.world())
            scaled.backward()  # type: ignore[no-untyped-call]
        total += value.detach() * weight
    return total


@contextmanager
def _callable(model: nn.Module, run: Run) -> Iterator[nn.Module]:
    """What a loss calls in place of the model: the same weights, as this run computes."""
    called = model
    with ExitStack() as stack:
        if rank := ranks.rank():
            stack.enter_context(run.seeded(f"rank {rank}"))  # dropout draws for other rows than rank 0's
        if run.recompute:
            stack.enter_context(recomputing(model))
        if ranks.world() > 1:
            if run.batchnorm == "sync":
                shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
                called = nn.SyncBatchNorm.convert_sync_batchnorm(  # type: ignore[no-untyped-call]
                    deepcopy(model, shared)
                )
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
            # buffers: once an epoch is enough, since training does not look at them
            called = DistributedDataParallel(called, broadcast_buffers=False, find_unused_parameters=True)
        if run.compile:
            torch.compiler.reset()  # what was compiled before must not decide which kernels run now
            called = torch.compile(called, dynamic=False)  # type: ignore[assignment]  # stubs: any callable
        yield called


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
