"""Squared per-row gradients of common layers, from what goes in and the gradient of what comes out.

The gradient of one row in the weight of a linear map is a sum over places, sum_t g_t a_t'. Its square, summed
over rows and directions, is had in one of two ways, whichever takes fewer multiplications:

- form it, row by row and direction by direction: t multiplications an entry, for each direction (for one
  direction of a convolution, by a convolution with one group a row, which need not unfold its input);
- or open the square, sum_{t,s} (sum_k g_kt g_ks) (a_t a_s)': t (t + 1) / 2 an entry, for all directions
  together, in one large product. A linear head has one place: squares times squares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import functional
from torch.nn.grad import conv2d_weight
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.maths.curvature.model import agreeing, logits_of, probe_signal, pull
from secateur.maths.curvature.passes import Rows, row_slice

_PROBES = 3


class Layers:
    """The parameters of a model that are had by layers; those that are not go the general way.

    A parameter is taken when, for each of the first rows by itself, the layer's gradient is that of autograd:
    so layers that are hooked or patched, or whose first dimension is not the rows, fall out by themselves.
    Whether a weight is used elsewhere too, in any chunk, is read off the chunk's graph: see ``Seen``.

    Args:
        model: In evaluation mode.
        weights: The parameters, detached.
        x: Some rows.

    Attributes:
        names: Parameters whose layer's gradient is that of autograd.
        classes: How many logits a row has.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], x: Rows) -> None:
        self.model, self.weights = model, weights
        self._layers = {
            path: module
            for path, module in model.named_modules()
            if _simple(module) and any(_join(path, part) in weights for part in ("weight", "bias"))
        }
        self.names, self.classes = set(weights), 0
        count = len(x if isinstance(x, Tensor) else next(iter(x.values())))
        for i in range(min(count, _PROBES)):
            self.names &= self._probe(row_slice(x, slice(i, i + 1)))
        owners = {name.rpartition(".")[0] for name in self.names}
        self._layers = {path: module for path, module in self._layers.items() if path in owners}

    def _probe(self, row: Rows) -> set[str]:
        seen = self.forward(row)
        self.classes = seen.logits.shape[1]
        signal = probe_signal(seen.logits)
        found = {
            name: _gradient(*self._part(name), x, gradients)[0]
            for name, x, gradients in seen.pull(self.names, [signal], last=False)
        }
        return agreeing(found, pull(seen.graph, seen.leaves, signal))

    def _part(self, name: str) -> tuple[nn.Module, str]:
        path, _, part = name.rpartition(".")
        return self._layers[path], part

    def forward(self, x: Rows) -> Seen:
        """One pass over some rows."""
        seen = Seen({name: w.detach().requires_grad_() for name, w in self.weights.items()})
        handles = [  # before the hooks of others, which may hand on another output
            module.register_forward_hook(partial(seen.note, path), prepend=True)
            for path, module in self._layers.items()
        ]
        try:
            with torch.enable_grad():
                seen.finish(logits_of(self.model, seen.leaves, x))
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def squares(
        self, seen: Seen, signals: Sequence[Tensor], budget: float, *, last: bool
    ) -> Iterator[tuple[str, Tensor]]:
        """Sums over rows and directions of squared gradients.

        Args:
            seen: From ``forward``.
            signals: Gradients in the logits, one [b, classes] for each direction.
            budget: Bytes to work in.
            last: No more signals come, so the graph may go.

        Yields:
            Names that are in ``names`` and ``seen.whole``, and sums in the shape of the parameter.
        """
        for name, x, gradients in seen.pull(self.names, signals, last=last):
            yield name, _squares(*self._part(name), x, gradients, budget)

    def row_bytes(self, x: Rows, directions: int) -> int:
        """What one row takes beside autograd's share."""
        seen = self.forward(row_slice(x, slice(0, 1)))
        outputs = sum(shape.numel() for shape in seen.shapes.values()) * seen.logits.element_size()
        unfolded = [x.nbytes * _taps(self._layers[path]) for path, x in seen.inputs.items()]
        return outputs * (1 + directions) + 2 * max(unfolded, default=0)


class Seen:
    """One forward pass: what went into the layers, and the places in autograd's graph where it came out.

    Args:
        leaves: The parameters, requiring gradients.

    Attributes:
        logits: [b, classes].
        graph: The same, with a graph.
        inputs: Path of a layer to what went in.
        shapes: Path of a layer to the shape of what came out.
        whole: Parameters that are used once, by their layer, which saw all rows: the graph of the logits
            has one edge to them, and goes through what the layer put out.
        unused: Parameters from which nothing leads to the logits.
    """

    def __init__(self, leaves: dict[str, Tensor]) -> None:
        self.leaves = leaves
        self.inputs: dict[str, Tensor] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.whole: set[str] = set()
        self.unused: set[str] = set()
        self._edges: dict[str, GradientEdge] = {}

    def note(self, path: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what one layer saw first; a forward hook."""
        if path not in self.inputs and inputs and output.requires_grad:
            # an edge, not the tensor: an activation in place makes another tensor of it
            self.inputs[path], self._edges[path] = inputs[0].detach(), get_gradient_edge(output)
            self.shapes[path] = output.shape

    def finish(self, logits: Tensor) -> None:
        """Look through the graph."""
        self.graph, self.logits = logits, logits.detach()
        edges = _edges_to(logits)
        counts = {name: edges[get_gradient_edge(leaf).node] for name, leaf in self.leaves.items()}
        self.unused = {name for name, count in counts.items() if not count}
        for path, x in self.inputs.items():
            if edges[self._edges[path].node] and len(x) == len(logits):
                names = (_join(path, "weight"), _join(path, "bias"))
                self.whole |= {name for name in names if counts.get(name) == 1}

    def pull(
        self, names: set[str], signals: Sequence[Tensor], *, last: bool
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Back from the logits.

        Args:
            names: Which parameters, of those that are whole.
            signals: Gradients in the logits, one [b, classes] for each direction.
            last: The graph may go.

        Yields:
            Parameter name, the layer's input [b, ...] and the gradients of its output [directions, b, ...].
        """
        taken = self.whole & names
        paths = [path for path in self.inputs if any(_join(path, p) in taken for p in ("weight", "bias"))]
        if not paths:
            return
        edges = [self._edges[path] for path in paths]
        parts = [
            torch.autograd.grad(self.graph, edges, signal, retain_graph=not last or i + 1 < len(signals))
            for i, signal in enumerate(signals)
        ]
        for i, path in enumerate(paths):
            gradients = [part[i] for part in parts]
            stacked = torch.stack(gradients) if len(gradients) > 1 else gradients[0][None]
            for name in (_join(path, "weight"), _join(path, "bias")):
                if name in taken:
                    yield name, self.inputs[path], stacked


def _edges_to(logits: Tensor) -> Counter[Node]:
    """How many edges of the graph behind the logits lead to each of its nodes; one to its end."""
    stack = [logits.grad_fn] if logits.grad_fn else []
    found = Counter(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node:
                if node not in found:
                    stack.append(node)
                found[node] += 1
    return found


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


def _taps(module: nn.Module) -> int:
    return module.weight[0, 0].numel() if isinstance(module, nn.Conv2d) else 1


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
