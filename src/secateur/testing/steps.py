"""The table of promises that every step keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur import knobs
from secateur.data import ROLES, Role, View
from secateur.errors import ClosedView, UsageError
from secateur.mapped import Mapped
from secateur.run import Run
from secateur.state import State
from secateur.step import Applied, Step, apply
from secateur.table import Table
from secateur.testing.problems import Problem, toy_problem
from secateur.testing.promises import bits, check_words, fail, watched


def check_step(step: Step, *, problem: Problem | None = None) -> None:
    """Check every promise of a step; that takes about a dozen runs of it, so give it few epochs.

    Args:
        step: An instance, of ours or from outside.
        problem: What to try it on; by default a toy problem, in fp32 and fp64. Each with masks and without.

    Raises:
        Broken: A promise is not kept; its name and what to do about it are in the message. A step that breaks
            one of those that ``apply`` owns raises what ``apply`` raises: ClosedView, BrokenPromise,
            NotFinite or UsageError.
    """
    check_words(step)
    problems = [problem] if problem else [toy_problem(), toy_problem(precision="fp64")]
    for tried in problems:
        for sparsity in (0.5, 0.0):
            with tried.run.steady():
                start = tried.state(sparsity=sparsity)
                _check(step, start, tried.run, all_promises=tried is problems[0])


def _check(step: Step, start: State, run: Run, *, all_promises: bool) -> None:
    known = _all_of(start)
    applied = watched(partial(apply, step, start, run))
    _check_untouched(known, start, applied)
    _check_result(step, start, applied, run)
    if all_promises:
        _check_repeats(step, start, applied, run)
        _check_reads(step, start, applied, run)
        _check_provenance(step, start, applied, run)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _model_bits(state: State) -> dict[str, Any]:
    masks = {f"mask of {key}": bits(mask) for key, mask in state.masks.items()}
    return {key: bits(value) for key, value in _weights(state.model).items()} | masks


def _all_of(state: State) -> dict[str, Any]:
    """All of a state that a step must leave alone."""
    found = _model_bits(state)
    for name, mark in state.marks.items():
        values = {**mark.weights, **mark.buffers}
        found |= {f"{key} of mark {name}": bits(value) for key, value in values.items()}
    found |= {f"training of {key or 'the model'}": m.training for key, m in state.model.named_modules()}
    for key, p in state.model.named_parameters():
        found |= {f"requires_grad of {key}": p.requires_grad, f"the gradient of {key}": p.grad is not None}
    for role in ROLES:
        view: View = getattr(state, role)
        # a fresh view: a fingerprint is computed once and kept
        found |= {f"the count of {role}": view.drawn, f"the rows of {role}": view.fresh().fingerprint}
    return found


def _changed(applied: Applied, other: Applied) -> str:
    """The first thing in which two results differ; empty where there is none."""
    first, second = _model_bits(applied.state), _model_bits(other.state)
    first["rows drawn"], second["rows drawn"] = applied.trace.drawn, other.trace.drawn
    return min((key for key in first.keys() | second.keys() if first.get(key) != second.get(key)), default="")


def _check_untouched(known: Mapping[str, Any], start: State, applied: Applied) -> None:
    promise = "the caller's state untouched"
    now = _all_of(start)
    if odd := [key for key in known if known[key] != now.get(key)]:
        fail(promise, f"{odd[0]} changed in what was handed to apply(): change only the copy in `state`")
    ours = {value.data_ptr() for value in [*_weights(start.model).values(), *start.masks.values()]}
    theirs = [*_weights(applied.state.model).values(), *applied.state.masks.values()]
    if any(value.data_ptr() in ours for value in theirs):
        fail(promise, "the result shares memory with the caller's model or masks: return the copy")


def _check_result(step: Step, start: State, applied: Applied, run: Run) -> None:
    """What can be seen on the result alone."""
    state, weights = applied.state, _weights(applied.state.model)
    for key, mask in state.masks.items():
        pruned = weights[key][~mask]
        if bool((pruned != 0).any()) or bool(torch.signbit(pruned).any()):
            fail("masks hold", f"pruned weights of {key} are not +0.0: end with state.pruned(masks)")
    if any(module.training for module in state.model.modules()):
        fail("the model settled", "it is in training mode: between steps a model is in evaluation mode")
    wanted = {key: p.requires_grad for key, p in start.model.named_parameters()}
    for key, p in state.model.named_parameters():
        if p.grad is not None or p.requires_grad != wanted.get(key, p.requires_grad):
            fail("the model settled", f"{key} has a gradient left, or requires_grad is not as it was")
    for key, value in weights.items():
        if value.is_floating_point() and value.dtype != run.dtype:
            fail("precision kept", f"{key} is {value.dtype} in a run of {run.dtype}: do not cast weights")
        if not bool(torch.isfinite(value).all()):
            fail("finite", f"{key} holds NaN or infinity: lower lr, or set clip")
    if state.depth != start.depth + 1:
        fail("provenance", f"depth went from {start.depth} to {state.depth}: leave counting to apply()")
    if step.reads & {"forget", "retain"} and state.marks:
        fail("marks dropped", "a mark would carry forgotten rows past unlearning: return none")
    _check_loads(state, run)


def _check_loads(state: State, run: Run) -> None:
    """A checkpoint is the whole of the result."""
    promise = "loads into the architecture"
    plain = state.fresh(run).model
    try:
        plain.load_state_dict(state.model.state_dict(), strict=True)
    except RuntimeError as error:
        fail(promise, f"{error}: keep names and shapes, or hand back a `build` that fits")
    batch = next(iter(state.pool.fresh().once()))
    with torch.no_grad():
        if not torch.equal(plain(batch.x), state.model(batch.x)):
            fail(promise, "its checkpoint, loaded into `build()`, answers otherwise: leave no hook behind")


def _check_repeats(step: Step, start: State, applied: Applied, run: Run) -> None:
    run.rng("order")
    rebuilt = knobs.build(type(step), knobs.values(step), where="knobs")
    for again in (step, rebuilt):
        if odd := _changed(applied, apply(again, start, run)):
            fail(
                "same seed, same weights",
                f"{odd} differs when the step is taken again: draw from run.rng(name), and keep nothing",
            )
    if step.card.anew:
        other = apply(step, replace(_reinitialised(start, run), marks={}), run)
        if odd := _changed(applied, other):
            fail("starts anew", f"{odd} depends on weights or marks that came in: set anew=False in the card")


def _reinitialised(state: State, run: Run) -> State:
    """The same state with other weights, which claim to have seen what the old ones saw."""
    other = state.fresh(replace(run, seed=run.seed + 1)).pruned(state.masks)
    return replace(other, weights_saw=state.weights_saw, masks_saw=state.masks_saw)


def _check_reads(step: Step, start: State, applied: Applied, run: Run) -> None:
    promise = "reads only what it says"
    for role in sorted(step.reads):
        closed: View = getattr(start, role).closed("closed by check_step")
        with contextlib.suppress(ClosedView):
            apply(step, _with_views(start, {role: closed}), run)
            fail(promise, f'`reads` names "{role}", and the step never looks at it: take it out')
    if odd := _changed(applied, apply(step, _other_rows(start, step.reads), run)):
        fail(promise, f"{odd} depends on rows that `reads` does not name: add their role, or leave them")


def _other_rows(state: State, reads: frozenset[Role]) -> State:
    """The same state with other contents in all rows out of reach; to a blind step, another request."""
    table, old = state.pool._table, {role: getattr(state, role)._at for role in ROLES}
    away = torch.ones(len(table.y), dtype=torch.bool)
    for role in reads:
        away[old[role]] = False
    source = torch.arange(len(table.y))
    source[away] = old["forget"][0]  # all alike, so that any mean over them is another one too
    if isinstance(x := table.x, Mapped):
        raise UsageError(
            "expected a problem whose rows are in memory, got mapped ones: check_step writes to rows out of "
            'reach; say memory = "in-memory"'
        )
    changed = x[source] if isinstance(x, Tensor) else {key: part[source] for key, part in x.items()}
    other = Table(changed, table.y[source], table.ids, table.overlay)
    new = dict(old)
    if not reads & {"forget", "retain"}:
        turned, count = old["pool"].flip(0), len(old["forget"])
        new |= {"forget": turned[:count].sort()[0], "retain": turned[count:].sort()[0]}
    views: dict[Role, View] = {role: getattr(state, role).fresh() for role in ROLES}
    for role, view in views.items():
        view._table, view._at = other, new[role]
    return _with_views(state, views)


def _with_views(state: State, views: Mapping[Role, View]) -> State:
    pool, forget, retain = (views.get(role, getattr(state, role)) for role in ROLES)
    return replace(state, pool=pool, forget=forget, retain=retain)


def _check_provenance(step: Step, start: State, applied: Applied, run: Run) -> None:
    promise, state = "provenance", applied.state
    other = apply(step, _reinitialised(start, run), run).state
    if not step.reads <= state.weights_saw or (step.card.anew and state.weights_saw != step.reads):
        fail(promise, f"weights_saw is {sorted(state.weights_saw)} after reading {sorted(step.reads)}")
    same_masks = {k: bits(m) for k, m in state.masks.items()} == {k: bits(m) for k, m in other.masks.items()}
    if not same_masks and not start.weights_saw <= state.masks_saw:
        fail(promise, "the masks depend on weights, and masks_saw lacks what those saw: use state.pruned()")
    if same_masks and state.masks and not start.masks_saw <= state.masks_saw:
        fail(promise, "the masks stay, and masks_saw forgot what had shaped them: leave it as it is")
    weights = dict(other.model.named_parameters())
    for key, p in state.model.named_parameters():
        every = torch.ones_like(p, dtype=torch.bool)
        both = state.masks.get(key, every) & other.masks.get(key, every)
        if not torch.equal(p[both], weights[key][both]) and not start.weights_saw <= state.weights_saw:
            fail(promise, f"{key} depends on the weights that came in, and weights_saw lacks what those saw")
