"""The step protocol, and ``apply``: it takes a step and keeps the promises, so that no method has to."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from secateur import knobs
from secateur.card import Card, name_of
from secateur.data import ROLES, Role, View
from secateur.errors import BrokenPromise, NotFinite, SecateurError, StepError, UsageError, told
from secateur.network import copy_model, is_finite, is_zeroed
from secateur.record import StepTrace
from secateur.run import Run
from secateur.state import State


class Step(Protocol):
    """A thing that changes a model: a frozen, keyword-only dataclass whose fields are its knobs.

    Attributes:
        card: What it says of itself.
    """

    card: ClassVar[Card]

    @property
    def reads(self) -> frozenset[Role]:
        """The roles that it looks at: an attribute, or a property of its knobs."""
        ...

    def __call__(self, state: State, run: Run, /) -> State:
        """Change the model in ``state`` (it is a copy) and return the state."""
        ...


class Applied(NamedTuple):
    """What ``apply`` gives back."""

    state: State
    trace: StepTrace


def apply(step: Step, state: State, run: Run) -> Applied:
    """Take a step, and keep the promises around it.

    The caller's state is never touched. The step is handed a copy of the model (a newly initialised one if
    its card says ``anew``), views that count, and closed views for every role that its ``reads`` does not
    name. Afterwards pruned weights are +0.0, everything is finite, the model is in evaluation mode, gradients
    are gone and ``requires_grad`` is as it was.

    Args:
        step: What to do.
        state: What to do it to.
        run: Where to compute, and the seed.

    Returns:
        The new state, and the trace: rows drawn for each role, seconds (device synchronised), peak memory,
        notes.

    Raises:
        UsageError: The step is no step, a knob is out of bounds, or the state was made for another run.
        ClosedView: It touched rows that ``reads`` does not name.
        BrokenPromise: It handed back no state, another architecture, or pruned weights that are not +0.0.
        NotFinite: A loss, a weight or a buffer became NaN or infinite.
        StepError: It raised anything else.
        DataError: The model cannot be copied, or a view that the step trains on is empty.
    """
    name = _identify(step)
    _check_place(state, run)
    run = run.at(state.depth)
    handed = hand(step, state, run)
    # torch does so at the first optimizer of a process: a second that is no step's own
    importlib.import_module("torch._dynamo")
    with run.steady(), run.seeded("torch"), _peak(run) as peak:
        run.synchronize()
        began = time.perf_counter()
        result = _take(step, name, handed, run)
        run.synchronize()
        seconds = time.perf_counter() - began + run.checkpoints.seconds
    return finish(step, state, handed, result, run, seconds=seconds, peak_bytes=peak[0])


def finish(
    step: Step, state: State, handed: State, result: Any, run: Run, *, seconds: float, peak_bytes: int
) -> Applied:
    """What ``apply`` does after a step: check what came back, and write the trace.

    Args:
        step: The step.
        state: The caller's.
        handed: What the step was handed: its views have counted.
        result: What the step gave back.
        run: With the step's notes.
        seconds: What it took.
        peak_bytes: Peak memory.

    Returns:
        The new state and the trace.

    Raises:
        BrokenPromise: As ``apply``.
        NotFinite: As ``apply``.
    """
    name, reads = name_of(type(step)), step.reads
    wanted = {key: p.requires_grad for key, p in state.model.named_parameters()}
    if not isinstance(result, State):
        raise BrokenPromise(
            f"expected {name} to return a State, got {type(result).__name__}: end with `return state`"
        )
    _settle(result.model, wanted)
    _check_architecture(name, result, state, run)
    _check_masks(name, result)
    _check_finite(name, result.model, state.model)
    # a step that tells forget from retain unlearns, and a mark would carry the forgotten rows past it
    unlearns = bool(reads & {"forget", "retain"})
    after = replace(
        result,
        pool=state.pool,
        forget=state.forget,
        retain=state.retain,
        marks={} if unlearns else result.marks,
        depth=state.depth + 1,
        weights_saw=result.weights_saw | reads,
        masks_saw=result.masks_saw | (reads if _differ(result.masks, state.masks) else frozenset()),
    )
    trace = StepTrace(
        step=name,
        knobs=knobs.values(step),
        version=step.card.version,
        seed=run.seed,
        depth=state.depth,
        reads=tuple(sorted(reads)),
        drawn={role: getattr(handed, role).drawn for role in ROLES if role in reads},
        seconds=seconds,
        peak_bytes=peak_bytes,
        sparsity=after.sparsity,
        weights_saw=tuple(sorted(after.weights_saw)),
        masks_saw=tuple(sorted(after.masks_saw)),
        notes={key: tuple(values) for key, values in run.notes.items()},
    )
    return Applied(after, trace)


def _take(step: Step, name: str, handed: State, run: Run) -> State:
    try:
        return step(handed, run)
    except SecateurError:
        raise
    except Exception as error:  # a step, a model or a data set of somebody else's can raise anything
        raise StepError(
            f"{name} could not do its work: {told(error)}: correct it, its knobs or its data"
        ) from error


def _identify(step: Any) -> str:
    name = name_of(type(step))
    if isinstance(step, type):
        raise UsageError(f"expected a step, got the class {step.__name__}: write {step.__name__}(...)")
    if not callable(step) or not isinstance(getattr(step, "card", None), Card):
        raise UsageError(f"expected a step, got {name}: a step is callable and carries a `card`")
    if not getattr(getattr(step, "__dataclass_params__", None), "frozen", False):
        raise UsageError(
            f"expected {name} to be a frozen dataclass: its fields are its knobs, and a knob that moves "
            "makes a record untrue"
        )
    if faults := knobs.check(step):
        raise UsageError(f"{name}: " + "; ".join(faults))
    reads = getattr(step, "reads", None)
    if not isinstance(reads, frozenset) or not reads <= set(ROLES):
        raise UsageError(
            f"expected {name}.reads to be a frozenset of {', '.join(ROLES)}, got {reads!r}: it says which "
            "rows the step looks at"
        )
    return name


def _check_place(state: State, run: Run) -> None:
    weight = next((p for p in state.model.parameters() if p.is_floating_point()), None)
    if weight is not None and (weight.dtype, weight.device.type) != (run.dtype, run.where.type):
        raise UsageError(
            f"expected a state made for this run ({run.dtype} on {run.where.type}), got weights in "
            f"{weight.dtype} on {weight.device.type}: State.of(build, split, run, model=...) makes one"
        )


def hand(step: Step, state: State, run: Run) -> State:
    """What a step is handed: a copy of the model (or, to start anew, a new one), and views that count.

    Args:
        step: The step; views of roles that its ``reads`` does not name are closed.
        state: The caller's.
        run: Where a new model is made.

    Returns:
        A state whose every part the step may write to.
    """
    name, reads, views = name_of(type(step)), step.reads, dict[Role, View]()
    for role in ROLES:
        view: View = getattr(state, role)
        why = (
            f'{name} touched "{role}", but its `reads` names {", ".join(sorted(reads)) or "no role"}: add '
            f'"{role}" to `reads`, or leave those rows alone'
        )
        views[role] = view.fresh() if role in reads else view.closed(why)
    # copies of all that a step could write to: the caller's stays as it is
    begun = state.fresh(run) if step.card.anew else replace(state, model=copy_model(state.model).eval())
    return replace(
        begun,
        pool=views["pool"],
        forget=views["forget"],
        retain=views["retain"],
        masks={key: mask.clone() for key, mask in state.masks.items()},
        marks={key: mark.clone() for key, mark in state.marks.items()},
    )


def _differ(masks: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    """Whether these are masks, and other ones than before."""
    known = masks.keys() <= before.keys()
    return bool(masks) and not (known and all(torch.equal(mask, before[key]) for key, mask in masks.items()))


@torch.no_grad()
def _settle(model: nn.Module, wanted: dict[str, bool]) -> None:
    """Evaluation mode, no gradients, ``requires_grad`` as it was, plain contiguous memory."""
    model.eval()
    for key, p in model.named_parameters():
        p.grad = None
        p.requires_grad_(wanted.get(key, p.requires_grad))
    for value in itertools.chain(model.parameters(), model.buffers()):
        # `contiguous` alone leaves the strides of channels last where one channel makes both layouts alike,
        # and kernels go by the strides: what was at hand would round otherwise than what the store holds
        value.data = value.data.to(memory_format=torch.contiguous_format).contiguous()


def _check_architecture(name: str, result: State, state: State, run: Run) -> None:
    like = state if result.build is state.build else result.fresh(run)
    got = {key: (value.shape, value.dtype) for key, value in result.model.state_dict().items()}
    want = {key: (value.shape, value.dtype) for key, value in like.model.state_dict().items()}
    if got != want:
        odd = sorted(key for key in got.keys() | want.keys() if got.get(key) != want.get(key))
        raise BrokenPromise(
            f"expected {name} to keep the architecture, but {odd[0]} changed: its weights would not load; a "
            "step that reshapes must hand back a `build` that fits"
        )


def _check_masks(name: str, result: State) -> None:
    weights = dict(result.model.named_parameters())
    for key, mask in result.masks.items():
        fits = isinstance(mask, Tensor) and key in weights and mask.shape == weights[key].shape
        if not fits or mask.dtype != torch.bool:
            raise BrokenPromise(
                f"expected masks of {name} to be boolean tensors in the shape of parameters, but "
                f'"{key}" is not: True keeps a weight'
            )
        if not is_zeroed(weights[key], mask):
            raise BrokenPromise(
                f'expected pruned weights to be +0.0 after {name}, but some of "{key}" are not: train with '
                "optimize(), or end with state.pruned(masks)"
            )


def _check_finite(name: str, model: nn.Module, before: nn.Module) -> None:
    # a buffer may hold infinity by design, as an attention mask does: then it held it before
    known = dict(before.named_buffers())
    moved = {key: b for key, b in model.named_buffers() if key not in known or not torch.equal(b, known[key])}
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **moved}
    bad = [key for key, value in tensors.items() if not is_finite(value)]
    if bad:
        raise NotFinite(
            f"expected finite weights after {name}, but {bad[0]} holds NaN or infinity: lower lr, or set clip"
        )


@contextlib.contextmanager
def _peak(run: Run) -> Any:
    cell = [0]
    if run.where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.where)
    yield cell
    if run.where.type == "cuda":
        cell[0] = torch.cuda.max_memory_allocated(run.where)
    else:
        # the process's high-water mark; Linux counts KiB, macOS bytes
        cell[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
