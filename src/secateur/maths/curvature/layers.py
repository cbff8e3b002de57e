"""Squared per-row gradients of common layers, from what goes in and the gradient of what comes out.

The gradient of one row in the weight of a linear map is a sum over places, sum_t g_t a_t'. Its square, summed
over rows and directions, is had in one of two ways, whichever takes fewer multiplications:

- form it, row by row and direction by direction: t multiplications an entry, for each direction (for one
  direction of a convolution, by a convolution with one group a row, which need not unfold its input);
- or open the square, sum_{t,s} (sum_k g_kt g_ks) (a_t a_s)': t (t + 1) / 2 an entry, for all directions
  together, in one large product. A linear head has one place: squares times squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.maths.curvature.model import logits_of
from secateur.maths.curvature.passes import Rows, row_slice

_AGREE = 1e-2  # far above rounding, far below what a second use of a weight does
_PROBES = 3


class Layers:
    """The parameters of a model that are had by layers; those that are not go the general way.

    A parameter is taken when, for each of the first rows by itself, the layer's gradient is that of autograd.
    So tied weights, layers used twice, re-parametrised ones or ones whose first dimension is not the rows
    fall out by themselves.

    Args:
        model: In evaluation mode.
        weights: The parameters, detached.
        x: Some rows.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], x: Rows) -> None:
        self.model, self.weights = model, weights
        self._layers = {
            path: module
            for path, module in model.named_modules()
            if _simple(module) and any(_join(path, part) in weights for part in ("weight", "bias"))
        }
        self.names: set[str] = set()
        self._probe(x)
        owners = {name.rpartition(".")[0] for name in self.names}
        self._layers = {path: module for path, module in self._layers.items() if path in owners}

    def _probe(self, x: Rows) -> None:
        count = len(x if isinstance(x, Tensor) else next(iter(x.values())))
        for i in range(min(count, _PROBES)):
            row = row_slice(x, slice(i, i + 1))
            logits, seen = self.forward(row)
            along = torch.cos(torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype))[None]
            found = {}
            for name, x_in, gradients in seen.pull([along]):
                module, part = self._layers[name.rpartition(".")[0]], name.rpartition(".")[2]
                found[name] = _gradient(module, part, x_in, gradients)[0]
            free = {name: w.detach().requires_grad_() for name, w in self.weights.items()}
            with torch.enable_grad():
                out = (logits_of(self.model, free, row) * along).sum()
                if not out.requires_grad:  # none of these leads to a logit
                    return
                true = torch.autograd.grad(out, list(free.values()), materialize_grads=True)
            same = {
                name
                for name, g in zip(free, true, strict=True)
                if name in found and bool((found[name] - g).norm() <= _AGREE * g.norm())
            }
            self.names = same if i == 0 else self.names & same

    def forward(self, x: Rows) -> tuple[Tensor, Seen]:
        """Logits [b, classes], and what the layers saw."""
        seen = Seen(self.weights)
        handles = [
            module.register_forward_hook(partial(seen.note, path)) for path, module in self._layers.items()
        ]
        frozen = {name: p.detach() for name, p in self.model.named_parameters()}
        try:
            with torch.enable_grad():
                logits = logits_of(self.model, frozen, x)
        finally:
            for handle in handles:
                handle.remove()
        seen.finish(logits)
        return logits.detach(), seen

    def squares(
        self, seen: Seen, signals: Sequence[Tensor], budget: float, *, last: bool = True
    ) -> dict[str, Tensor]:
        """Sums over rows and directions of squared gradients.

        Args:
            seen: From ``forward``.
            signals: Gradients in the logits, one [b, classes] for each direction.
            budget: Bytes to work in.
            last: No more signals come, so the graph may go.

        Returns:
            Name to sums, in the shape of the parameter; what is missing goes the general way.
        """
        found = {}
        for name, x, gradients in seen.pull(signals, last=last):
            if name not in self.names:
                continue
            path, _, part = name.rpartition(".")
            found[name] = _squares(self._layers[path], part, x, gradients, budget)
        return found

    def row_bytes(self, x: Rows, directions: int) -> int:
        """What one row takes beside autograd's share."""
        _, seen = self.forward(row_slice(x, slice(0, 1)))
        outputs, work = seen.bytes()
        return outputs * (1 + directions) + work * 2


class Seen:
    """What layers saw in one forward pass: their inputs, and the graph behind their outputs.

    Args:
        weights: The parameters that count.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._leaves: list[Tensor] = []
        self._inputs: dict[str, tuple[nn.Module, Tensor]] = {}
        self._shapes: dict[str, torch.Size] = {}
        self._caught: dict[str, Tensor] = {}
        self._logits: Tensor | None = None
        self._twice: set[str] = set()

    def note(self, path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Keep what one layer saw; a forward hook."""
        if path in self._inputs or not inputs or not torch.is_grad_enabled():
            self._twice.add(path)
            return None
        self._inputs[path] = (module, inputs[0].detach())
        self._shapes[path] = output.shape
        replaced = None
        if not output.requires_grad:  # weights are constants, so a graph has to begin somewhere
            leaf = output.detach().requires_grad_()
            self._leaves.append(leaf)
            replaced = output = leaf.clone()  # a leaf could not be overwritten by the next layer
        # on the tensor, not by the end of the pass: an activation in place makes another tensor of it
        output.register_hook(partial(self._catch, path))  # type: ignore[no-untyped-call]
        return replaced

    def _catch(self, path: str, gradient: Tensor) -> None:
        self._caught[path] = gradient.detach()

    def finish(self, logits: Tensor) -> None:
        """The end of the pass."""
        self._logits = logits

    def bytes(self) -> tuple[int, int]:
        """Bytes of all outputs, and those of the largest unfolded input."""
        outputs, work = 0, 0
        for path, (module, x) in self._inputs.items():
            outputs += self._shapes[path].numel() * x.element_size()
            taps = module.weight[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
            work = max(work, x.nbytes * taps)
        return outputs, work

    def pull(self, signals: Sequence[Tensor], *, last: bool = True) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Back from the logits.

        Args:
            signals: Gradients in the logits, one [b, classes] for each direction.
            last: The graph may go.

        Yields:
            Parameter name, the layer's input [b, ...] and the gradients of its output [directions, b, ...].
        """
        logits = self._logits
        if logits is None or not logits.requires_grad:
            return
        caught: dict[str, list[Tensor]] = {path: [] for path in self._inputs}
        for i, signal in enumerate(signals):
            self._caught = {}
            more = not last or i + 1 < len(signals)
            torch.autograd.grad(logits, self._leaves, signal, retain_graph=more, allow_unused=True)
            for path, parts in caught.items():
                zeros = (signal.new_zeros(1)).expand(self._shapes[path])  # nothing leads from it to a logit
                parts.append(self._caught.get(path, zeros))
        self._caught = {}
        for path, (_, x) in self._inputs.items():
            parts = caught.pop(path)
            if path in self._twice or len(x) != len(logits) or self._shapes[path][0] != len(logits):
                continue
            stacked = torch.stack(parts) if len(parts) > 1 else parts[0][None]
            for part in ("weight", "bias"):
                if _join(path, part) in self._weights:
                    yield _join(path, part), x, stacked


def _join(path: str, part: str) -> str:
    return f"{path}.{part}".lstrip(".")


def _simple(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) in (nn.Linear, nn.LayerNorm) or isinstance(module, _BatchNorm)


def _rows(module: nn.Module, part: str, x: Tensor, g: Tensor) -> Tensor | None:
    """Gradients [directions, b, *shape] where they are cheap: biases, and scales of norms."""
    if isinstance(module, (nn.Conv2d, _BatchNorm)):
        if isinstance(module, _BatchNorm) and part == "weight":
            g = g * functional.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)
        elif part == "weight":
            return None
        return _sum(g, 3, g.ndim)
    if isinstance(module, nn.LayerNorm):
        if part == "weight":
            g = g * functional.layer_norm(x, module.normalized_shape, eps=module.eps)
        return _sum(g, 2, g.ndim - len(module.normalized_shape))
    return _sum(g, 2, g.ndim - 1) if part == "bias" else None


def _places(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs [b, groups, i, places] and gradients [directions, b, groups, o, places] of a linear map."""
    if isinstance(module, nn.Conv2d):
        return _regroup(_unfold(module, x), 1, module.groups), _regroup(g.flatten(3), 2, module.groups)
    x = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
    g = g.flatten(2, -2) if g.ndim > 3 else g[:, :, None]
    return x.transpose(1, 2)[:, None], g.transpose(2, 3)[:, :, None]


def _unfold(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What each tap of the kernel sees: [b, inputs * taps, places]."""
    tall, wide = _pair(conv.padding)
    if conv.dilation != (1, 1):
        return functional.unfold(x, conv.kernel_size, conv.dilation, (tall, wide), conv.stride)
    # half the time of functional.unfold on a CPU
    seen = functional.pad(x, (wide, wide, tall, tall))
    for i in range(2):
        seen = seen.unfold(2 + i, conv.kernel_size[i], conv.stride[i])
    return seen.permute(0, 1, 4, 5, 2, 3).reshape(len(x), x.shape[1] * conv.weight[0, 0].numel(), -1)


def _pair(padding: str | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(padding, str):
        raise TypeError(padding)  # _simple leaves these out
    return padding[0], padding[1]


def _sum(value: Tensor, first: int, last: int) -> Tensor:
    return value.sum(tuple(range(first, last))) if last > first else value  # over no dimension means over all


def _regroup(value: Tensor, dim: int, groups: int) -> Tensor:
    shape = value.shape
    return value.reshape(*shape[:dim], groups, -1, *shape[dim + 1 :])


def _gradient(module: nn.Module, part: str, x: Tensor, g: Tensor) -> Tensor:
    """The gradient of all rows together, [directions, *shape]."""
    rows = _rows(module, part, x, g)
    if rows is not None:
        return rows.sum(1)
    inputs, gradients = _places(module, x, g)
    weight = getattr(module, part)
    return torch.einsum("bgit,kbgot->kgoi", inputs, gradients).reshape(len(g), *weight.shape)


def _squares(module: nn.Module, part: str, x: Tensor, g: Tensor, budget: float) -> Tensor:
    rows = _rows(module, part, x, g)
    if rows is not None:
        return rows.square().sum((0, 1))
    weight: Tensor = getattr(module, part)
    places = g[0, 0].numel() // weight.shape[0]
    opened = places + 1 <= 2 * len(g)
    if isinstance(module, nn.Conv2d) and len(g) == 1 and not opened:
        return _convolved(module, x, g[0], budget)
    entries = (places + 1) * (weight.shape[0] + weight[0].numel()) / 2 if opened else len(g) * weight.numel()
    how: Callable[[Tensor, Tensor], Tensor] = _opened if opened else _formed
    step = max(1, int(budget // (entries * weight.element_size())))
    total = torch.zeros_like(weight)
    for start in range(0, len(x), step):
        at = slice(start, start + step)
        total += how(*_places(module, x[at], g[:, at])).reshape(weight.shape)
    return total


def _formed(x: Tensor, g: Tensor) -> Tensor:
    """[groups, o, i]."""
    directions = len(g)
    stacked = g.permute(1, 2, 0, 3, 4).flatten(2, 3) if directions > 1 else g[0]
    rows = stacked @ x.transpose(2, 3)  # [b, groups, directions * o, i]
    return _regroup(rows.square_().sum(0), 1, directions).sum(1)


def _convolved(conv: nn.Conv2d, x: Tensor, g: Tensor, budget: float) -> Tensor:
    """Squares for one direction, from one convolution in which each row is a group of its own."""
    total, step = torch.zeros_like(conv.weight), max(1, int(budget // conv.weight.nbytes))
    for start in range(0, len(x), step):
        few, slopes = x[start : start + step], g[start : start + step]
        rows = conv2d_weight(  # type: ignore[no-untyped-call]
            few.flatten(0, 1)[None],
            (len(few) * conv.weight.shape[0], *conv.weight.shape[1:]),
            slopes.flatten(0, 1)[None],
            conv.stride,
            _pair(conv.padding),
            conv.dilation,
            len(few) * conv.groups,
        )
        total += _regroup(rows.square_(), 0, len(few)).sum(0)
    return total


def _opened(x: Tensor, g: Tensor) -> Tensor:
    """[groups, o, i]."""
    t, s = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    twice = torch.where(t == s, 1.0, 2.0).to(x.dtype)
    left = (g[..., t] * g[..., s]).sum(0) * twice  # [b, groups, o, pairs]
    right = x[..., t] * x[..., s]
    return torch.einsum("bgop,bgip->goi", left, right)
