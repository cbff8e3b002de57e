"""One step for several states at once: what ``apply`` does to each, faster where models are small."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Augment, View
from secateur.maths import ensemble
from secateur.optimize import Plainly
from secateur.run import Run
from secateur.state import State
from secateur.step import Applied, Step, finish, hand

TRIED = 64  # models, when chunks are timed
UPDATES = 8  # that are timed to tell a speedup


def plainly(step: Step) -> Plainly | None:
    """What a step comes to, where it is a plain training; None where it has to be taken state by state."""
    found: Plainly | None = getattr(step, "plainly", None)
    return found


def obstacle(step: Step, states: Sequence[State], run: Run) -> str:
    """Why a step cannot be taken for these states at once.

    Args:
        step: The step.
        states: Of one architecture, over one table of rows.
        run: Where to compute.

    Returns:
        The reason, in words; "" where there is none.
    """
    plain = plainly(step)
    if plain is None:
        return "it is more than a plain training"
    if run.resolved == "bf16" or run.compile:
        return "mixed precision and compiled models are trained one by one"
    first = getattr(states[0], plain.role)
    if not isinstance(first._table.x, Tensor):
        return f"its rows are {'mapped' if first.memory == 'mapped' else 'no tensors'}"
    if any(getattr(state, plain.role)._table is not first._table for state in states):
        return "its states stand on different tables of rows"
    if first._table.overlay is not None:
        return "something lies over its rows when they are drawn"
    if len({frozenset(state.masks) for state in states}) > 1:
        return "some of its states are pruned and some are not"
    x, y, _ = first.table(draws=0)
    return ensemble.obstacle(_models(step, states, run), x, y)


def best_chunk(step: Step, states: Sequence[State], run: Run) -> int:
    """How many of these states are best trained in one stack: see ``maths.ensemble.best_chunk``."""
    plain = plainly(step)
    assert plain is not None
    x, y, _ = getattr(states[0], plain.role).table(draws=0)
    with run.steady():
        return ensemble.best_chunk(_models(step, states[:TRIED], run), x, y, batch=plain.batch)


def speedup(step: Step, states: Sequence[State], run: Run, chunk: int) -> float:
    """How many times as fast an update of one model is in a stack as alone, timed on copies.

    Args:
        step: One for which ``obstacle`` finds none.
        states: As for ``apply_together``.
        run: Where to compute.
        chunk: Models in one stack.

    Returns:
        The ratio of seconds.
    """
    plain = plainly(step)
    assert plain is not None
    x, y, _ = getattr(states[0], plain.role).table(draws=0)
    at = torch.arange(min(UPDATES * plain.batch, len(x)))

    def seconds(count: int) -> float:
        models = _models(step, states[:count], run)
        began = time.perf_counter()
        ensemble.train_together(
            models, x, y, lambda *_: at, epochs=1, batch=plain.batch, chunk=count, lr=1e-6
        )
        return (time.perf_counter() - began) / count

    with run.steady(), run.seeded("torch"):
        alone, stacked = (min(seconds(count) for _ in range(2)) for count in (1, min(chunk, len(states))))
    return alone / stacked


def apply_together(
    step: Step, states: Sequence[State], runs: Sequence[Run], *, chunk: int, advance: Callable[[int], None]
) -> list[Applied]:
    """Take a plain training for several states; each comes out as ``apply`` would give it, to rounding.

    Args:
        step: One for which ``obstacle`` finds none.
        states: Where each starts.
        runs: The seed of each.
        chunk: Models in one stack.
        advance: Called with the number of models that have done an epoch.

    Returns:
        For each the state and the trace, whose seconds are its share of the time.

    Raises:
        NotFinite: The loss of a model became NaN or infinite.
    """
    plain = plainly(step)
    assert plain is not None
    runs = [run.at(state.depth) for state, run in zip(states, runs, strict=True)]
    handed = [hand(step, state, run) for state, run in zip(states, runs, strict=True)]
    views: list[View] = [getattr(state, plain.role) for state in handed]
    rows = [view.table(draws=len(view) * plain.epochs) for view in views]
    x, y, augment = rows[0]
    orders = [
        view.orders(epochs=plain.epochs, rng=run.rng("order")) for view, run in zip(views, runs, strict=True)
    ]
    masks = {name: torch.stack([state.masks[name] for state in handed]) for name in handed[0].masks}
    changed = None if augment is None else partial(_augmented, augment, orders)
    models: list[nn.Module] = [state.model for state in handed]
    with runs[0].steady(), runs[0].seeded("torch"):
        began = time.perf_counter()
        losses = ensemble.train_together(
            models,
            x,
            y,
            lambda model, epoch: orders[model](epoch)[0],
            epochs=plain.epochs,
            batch=plain.batch,
            chunk=chunk,
            lr=plain.sgd.lr,
            momentum=plain.sgd.momentum,
            nesterov=plain.sgd.nesterov,
            decay=plain.sgd.decay,
            schedule=plain.sgd.schedule,
            smoothing=plain.smoothing,
            masks=masks,
            augment=changed,
            advance=advance,
        )
        runs[0].synchronize()
        seconds = (time.perf_counter() - began) / len(states)
    done = []
    for state, result, run, series in zip(states, handed, runs, losses.tolist(), strict=True):
        for loss in series:
            run.note("loss", loss)
        done.append(finish(step, state, result, result, run, seconds=seconds, peak_bytes=0))
    return done


def _augmented(augment: Augment, orders: Sequence[Any], model: int, epoch: int) -> Callable[[Tensor], Tensor]:
    chance = orders[model](epoch)[1]
    return lambda x: augment(x, chance)


def _models(step: Step, states: Sequence[State], run: Run) -> list[nn.Module]:
    """Where the step would start: copies, or new models."""
    return [hand(step, state, run).model for state in states]
