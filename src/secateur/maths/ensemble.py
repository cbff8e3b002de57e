"""Many small models trained at once: their weights in one stack, one forward pass under ``torch.func.vmap``.

No model's loss depends on another's weights, so the gradient of the sum of all losses at the stack [c, ...]
is the stack of the models' own gradients: autograd runs once, outside vmap. SGD works element by element, so
one ``torch.optim.SGD`` on the stack is c of them. Buffers are stacked too: batch norm sees a model's own rows
only. (One batch for all with masked losses is something else: masked rows still enter the batch statistics.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from secateur.errors import DataError, NotFinite, UsageError, nearest, told
from secateur.maths.schedules import Schedule, constant

Order = Callable[[int, int], Tensor]
Augment = Callable[[int, int], Callable[[Tensor], Tensor]]


def balanced_halves(models: int, rows: int, rng: Generator) -> Tensor:
    """Which model sees which rows: each row is in exactly half of the models.

    Every column of ``rand(models, rows).argsort(0) < models / 2`` is a random half of the models (Carlini et
    al., S&P 2022). That alone gives the models rows / 2 +- sqrt(rows) / 2 rows each; so rows drawn at random
    then move from the model with most to the one with fewest, until these differ by one at most. No row is
    treated unlike another.

    Args:
        models: An even number.
        rows: How many.
        rng: A CPU generator; the only source of chance.

    Returns:
        [models, rows], boolean: True where the model sees the row.

    Raises:
        UsageError: An odd number of models, or none, or no rows.

    >>> halves = balanced_halves(4, 6, Generator().manual_seed(0))
    >>> halves.sum(0).tolist(), halves.sum(1).tolist()
    ([2, 2, 2, 2, 2, 2], [3, 3, 3, 3])
    """
    if models < 2 or models % 2 or rows < 1:
        raise UsageError(
            f"expected an even number of models and at least one row, got {models} and {rows}: each row is "
            "seen by exactly half of the models; take one model more"
        )
    keep = torch.rand(models, rows, generator=rng).argsort(dim=0, stable=True) < models // 2
    counts = keep.sum(1)
    while (surplus := int(counts.max() - counts.min()) // 2) > 0:
        most, fewest = int(counts.argmax()), int(counts.argmin())
        free = (keep[most] & ~keep[fewest]).nonzero()[:, 0]
        moved = free[torch.randperm(len(free), generator=rng)[:surplus]]
        keep[most, moved], keep[fewest, moved] = False, True
        counts[most], counts[fewest] = counts[most] - surplus, counts[fewest] + surplus
    return keep


def train_together(
    models: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    order: Order,
    *,
    epochs: int,
    batch: int,
    chunk: int,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    decay: float = 0.0,
    schedule: Schedule = constant,
    smoothing: float = 0.0,
    masks: Mapping[str, Tensor] | None = None,
    augment: Augment | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """Train models of one architecture in place, each on rows and in an order of its own.

    To rounding the same as ``optimize`` (``torch.optim.SGD``) on one model after another: mean cross-entropy,
    ``lr * schedule(updates done / updates to do)``, epochs cut in ceil(m / batch) even parts. Models share a
    stack only where they have equally many rows m, as ``balanced_halves`` gives them (or two sizes, where the
    number of rows is odd). Dropout draws anew for each model, from torch's global generator: its bits depend
    on ``chunk``, and are not those of models trained one by one.

    Args:
        models: K modules, inputs [b, ...] to logits [b, classes], on the device of ``x``.
        x: [n, ...], the rows of all models; uint8 becomes floats in [0, 1].
        y: [n], the classes, int64.
        order: Model and epoch, counted from 0, to positions in ``x`` [m], int64, shuffled. A pure function; m
            is the same in all epochs of a model.
        epochs: Passes of each model over its rows.
        batch: Rows per update and model, at most.
        chunk: Models in one stack, at most: it bounds the memory. ``best_chunk`` times some.
        lr: Learning rate, per update.
        momentum: In [0, 1).
        nesterov: Nesterov's momentum.
        decay: Weight decay, on every trainable parameter.
        schedule: Progress in [0, 1) to the factor on ``lr``.
        smoothing: Label smoothing, in [0, 1).
        masks: Parameter name to a boolean tensor, True = kept: [...] for all models or [K, ...]. Pruned
            weights are filled with +0.0 before the first and after every update.
        augment: Model and epoch to an operation on its batches [b, ...]; asked once an epoch.
        advance: Called with the number of models that have just done an epoch: K * epochs in all.

    Returns:
        [K, epochs], the mean loss of each epoch, in nats, fp64, on the CPU. Models are in evaluation mode.

    Raises:
        UsageError: A knob out of bounds, or models that ``obstacle`` finds unfit.
        DataError: Rows, labels, masks and models do not fit each other.
        NotFinite: A model's loss became NaN or infinite. Chunks before it are trained, its own is untouched.
    """
    fine = min(epochs, batch, chunk) >= 1 and 0 < lr < math.inf and 0 <= momentum < 1
    if not (fine and 0 <= decay < math.inf and 0 <= smoothing < 1 and (momentum or not nesterov)):
        raise UsageError(
            "expected epochs, batch and chunk from 1 on, lr > 0, decay >= 0, momentum and smoothing in "
            f"[0, 1) and nesterov only with momentum, got {epochs=}, {batch=}, {chunk=}, {lr=}, {decay=}, "
            f"{momentum=}, {smoothing=}, {nesterov=}"
        )
    _check_fit(models, x, y)
    _check_masks(masks or {}, models)
    groups: dict[int, list[int]] = {}
    for k in range(len(models)):
        groups.setdefault(len(order(k, 0)), []).append(k)
    found = torch.zeros(len(models), epochs, dtype=torch.float64)
    for m, these in ((m, g[k : k + chunk]) for m, g in groups.items() for k in range(0, len(g), chunk)):
        stack = _Stack(
            [models[k] for k in these], smoothing, momentum=momentum, nesterov=nesterov, weight_decay=decay
        )
        stack.prune(masks or {}, these)
        for epoch in range(epochs):
            at = _positions([order(k, epoch) for k in these], m, len(x)).to(x.device)
            ops = [augment(k, epoch) for k in these] if augment else []
            losses = torch.zeros(len(these), dtype=torch.float64, device=x.device)
            parts = at.tensor_split(math.ceil(m / batch), dim=1)
            for done, part in enumerate(parts, epoch * len(parts)):
                rate = lr * schedule(done / (epochs * len(parts)))
                losses += stack.update(stack.rows(x, part, ops), y[part], rate)
            found[these, epoch] = losses.cpu() / len(parts)
            for k in these:
                if not math.isfinite(mean := float(found[k, epoch])):
                    raise NotFinite(
                        f"expected a finite loss, got {mean} for model {k} (the first is 0) in "
                        f"epoch {epoch + 1} of {epochs}: lower lr (now {lr})"
                    )
            if advance is not None:
                advance(len(these))
        stack.hand_back([models[k] for k in these])
    return found


def best_chunk(models: Sequence[nn.Module], x: Tensor, y: Tensor, *, batch: int, updates: int = 3) -> int:
    """The chunk that trains fastest here: times updates of 1, 2, 4, 8 ... models, on copies.

    It ends early where a size is clearly slower than the best so far, or memory is spent. A clock may answer
    otherwise next time, and the chunk moves the rounding: write the answer down, and use it again.

    Args:
        models: As for ``train_together``.
        x: [n, ...].
        y: [n].
        batch: Rows per update and model.
        updates: How many to time for each size, after one that is not; the fastest counts.

    Returns:
        A power of two, at most the number of models.

    Raises:
        UsageError: No row or no update, or models that ``obstacle`` finds unfit.
    """
    if batch < 1 or updates < 1:
        raise UsageError(f"expected at least one row and one update, got batch={batch}, updates={updates}")
    _check_fit(models, x, y)
    best, least = 1, math.inf
    with _same_chance(x.device):
        for size in (2**i for i in range(len(models).bit_length())):
            try:
                seconds = _seconds(_Stack(models[:size]), size, x, y, batch, updates) / size
            except torch.OutOfMemoryError:
                break
            if seconds > 2 * least:
                break
            best, least = (size, seconds) if seconds < least else (best, least)
    return best


def obstacle(models: Sequence[nn.Module], x: Tensor, y: Tensor) -> str:
    """Why models cannot be trained together: for a caller that then trains them one by one, and says why.

    The first and the last are tried on eight rows, together and alone, on copies: losses and buffers must
    agree (of models that draw at random: the same buffers must move). So it finds what vmap cannot do, such
    as control flow that looks at data or at a buffer (``BatchNorm2d(momentum=None)``), and what it would get
    wrong in silence, such as a buffer that is replaced and not changed in place.

    Args:
        models: At least one, each once.
        x: [n, ...].
        y: [n].

    Returns:
        The reason, in words; "" where there is none.

    Raises:
        UsageError: No model, or one twice.
        DataError: Rows, labels and models do not fit each other, or no parameter is trainable.
    """
    if not models or len({id(model) for model in models}) < len(models):
        raise UsageError(
            f"expected models, each once, got {len(models)} with repeats: build one for each place"
        )
    if not len(x) or y.shape != x.shape[:1] or y.dtype != torch.int64 or int(y.min()) < 0:
        raise DataError(
            f"expected rows [n, ...] and classes [n], int64 from 0 on, got {list(x.shape)} and "
            f"{list(y.shape)} of {y.dtype}"
        )
    forms = [_form(model) for model in models]
    if strange := [k for k, form in enumerate(forms) if form != forms[0]]:
        return f"model {strange[0]} is not built like model 0"
    labels = y[:8].expand(2, -1)
    with _same_chance(x.device):
        stack = _Stack([models[0], models[-1]])
        rows = stack.rows(x, torch.arange(labels.shape[1], device=x.device).expand(2, -1))
        alone, again = (_alone([models[0], models[-1]], rows[0], y) for _ in range(2))
        before = {name: buffer.clone() for name, buffer in stack.buffers.items()}
        try:
            together = {"loss": stack.update(rows, labels, 0.0), **stack.buffers}
        except Exception as error:  # whatever a module from outside raises
            first = next(iter(str(error).splitlines()), "")
            return f"torch.func.vmap cannot run them ({type(error).__name__}: {first})"
    if all(torch.equal(alone[name], again[name]) for name in alone):
        wrong = [name for name in alone if not _close(together[name], alone[name])]
    else:
        wrong = [k for k, b in before.items() if torch.equal(b, together[k]) != torch.equal(b, alone[k])]
    return f'under torch.func.vmap their "{wrong[0]}" does not come out as one by one' if wrong else ""


class _Stack:
    """Models of one architecture as one: parameters and buffers [c, ...], and their optimizer."""

    def __init__(self, models: Sequence[nn.Module], smoothing: float = 0.0, **sgd: Any) -> None:
        base = copy.deepcopy(models[0]).train()
        self.weights = _stacked([dict(model.named_parameters()) for model in models])
        self.buffers = _stacked([dict(model.named_buffers()) for model in models])
        trainable = [name for name, p in base.named_parameters() if p.requires_grad]
        if not trainable:
            raise DataError("expected parameters to train, but requires_grad is False for all: thaw some")
        params = [self.weights[name].requires_grad_() for name in trainable]
        self.sgd = torch.optim.SGD(params, **{"lr": 0.0, "momentum": 0.9, **sgd}, fused=True)
        self.dtype, self.smoothing = params[0].dtype, smoothing
        self.gone: list[tuple[Tensor, Tensor]] = []
        self.call = vmap(
            lambda weights, buffers, x: functional_call(base, (weights, buffers), (x,)),
            randomness="different",
        )

    def prune(self, masks: Mapping[str, Tensor], these: list[int]) -> None:
        """Take the masks of these models, and fill what they prune."""
        for name, mask in masks.items():
            weight = self.weights[name].detach()
            gone = ~(mask[these] if mask.ndim == weight.ndim else mask)
            self.gone.append((weight, torch.empty_like(weight, dtype=torch.bool).copy_(gone)))
        self._fill()

    def _fill(self) -> None:
        for weight, gone in self.gone:
            weight.masked_fill_(gone, 0.0)

    def rows(self, x: Tensor, at: Tensor, ops: Sequence[Callable[[Tensor], Tensor]] = ()) -> Tensor:
        """The rows of each model: x [n, ...] at [c, b] to floats [c, b, ...], by its own operation."""
        chosen = x.index_select(0, at.flatten()).view(*at.shape, *x.shape[1:])
        if x.dtype == torch.uint8:
            chosen = chosen.to(self.dtype).div_(255)
        elif x.is_floating_point():
            chosen = chosen.to(self.dtype)
        return torch.stack([op(own) for op, own in zip(ops, chosen, strict=True)]) if ops else chosen

    def update(self, x: Tensor, y: Tensor, lr: float) -> Tensor:
        """One update on x [c, b, ...] and y [c, b]; returns the losses [c] that it lowers."""
        self.sgd.param_groups[0]["lr"] = lr
        logits = self.call(self.weights, self.buffers, x).flatten(0, 1)
        losses = cross_entropy(logits, y.flatten(), label_smoothing=self.smoothing, reduction="none")
        means = losses.view(y.shape).mean(1)
        self.sgd.zero_grad()
        means.sum().backward()  # type: ignore[no-untyped-call]
        self.sgd.step()
        self._fill()
        return means.detach()

    @torch.no_grad()
    def hand_back(self, models: Sequence[nn.Module]) -> None:
        """Write the results into the models, and leave these in evaluation mode."""
        for i, model in enumerate(models):
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.copy_((self.weights if name in self.weights else self.buffers)[name][i])
            model.eval()


def _stacked(named: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([tensors[name].detach() for tensors in named]) for name in named[0]}


def _positions(orders: list[Tensor], m: int, n: int) -> Tensor:
    """[c, m], checked."""
    if not m or not all(at.shape == (m,) and at.dtype == torch.int64 for at in orders):
        raise DataError(f"expected int64 positions, as many ({m}) as in the first epoch and more than none")
    at = torch.stack(orders)
    if int(at.min()) < 0 or int(at.max()) >= n:
        raise DataError(f"expected positions from 0 to {n - 1}, got {int(at.min())} to {int(at.max())}")
    return at


def _form(model: nn.Module) -> tuple[object, ...]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return str(model), *((name, t.shape, t.dtype, t.device, t.requires_grad) for name, t in tensors)


def _alone(models: Sequence[nn.Module], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Losses and buffers [c, ...] after a pass of each model in training mode, on copies."""
    found = []
    for model in models:
        own = copy.deepcopy(model).train()
        try:
            logits = own(x.clone()).detach()
        except Exception as error:  # whatever a module from outside raises
            raise DataError(f"expected models that take these rows, but one raised {told(error)}") from error
        if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] <= int(y.max()):
            raise DataError(
                f"expected logits [{len(x)}, classes], classes up to {int(y.max())}, got {list(logits.shape)}"
            )
        found.append({"loss": cross_entropy(logits, y[: len(x)]), **dict(own.named_buffers())})
    return _stacked(found)


def _close(found: Tensor, expected: Tensor) -> bool:
    if not found.is_floating_point() or not found.numel():
        return torch.equal(found, expected)
    # far above rounding, TF32's too: this looks for another computation
    scale = float(expected.abs().nan_to_num().max())
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


def _seconds(stack: _Stack, size: int, x: Tensor, y: Tensor, batch: int, updates: int) -> float:
    at = (torch.arange(batch, device=x.device) % len(x)).expand(size, -1)
    # on one thread its own time: on a busy machine long updates are interrupted, and short ones are not
    alone = x.device.type == "cpu" and torch.get_num_threads() == 1
    clock, times = process_time if alone else perf_counter, []
    for _ in range(updates + 1):
        begun = clock()
        stack.update(stack.rows(x, at), y[at], 0.0)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        times.append(clock() - begun)
    return min(times[1:])


@contextmanager
def _same_chance(device: torch.device) -> Iterator[None]:
    """What is tried may draw from the global generators; they are put back."""
    with torch.random.fork_rng([torch.empty(0, device=device).get_device()] if device.type == "cuda" else []):
        yield


def _check_fit(models: Sequence[nn.Module], x: Tensor, y: Tensor) -> None:
    if why := obstacle(models, x, y):
        raise UsageError(f"expected models that can be trained together, but {why}: train them one by one")


def _check_masks(masks: Mapping[str, Tensor], models: Sequence[nn.Module]) -> None:
    shapes = {name: weight.shape for name, weight in models[0].named_parameters()}
    for name, mask in masks.items():
        if name not in shapes:
            raise DataError(f'no parameter is called "{name}", {nearest(name, shapes)}')
        if mask.dtype != torch.bool or mask.shape not in (shapes[name], (len(models), *shapes[name])):
            raise DataError(
                f'expected a boolean mask {list(shapes[name])} for "{name}", or {len(models)} of them, '
                f"got {list(mask.shape)} of {mask.dtype}"
            )
