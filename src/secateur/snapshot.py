"""Snapshots: a training in its midst, as files from which it goes on with the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from secateur.packing import from_bytes, pack, to_bytes, unpack
from secateur.ranks import gathered, rank
from secateur.run import Run
from secateur.state import State

TRAINING, ABOUT = "training.safetensors", "about.json"


class Momentum(Protocol):
    """What an optimizer keeps between updates, by parameter."""

    state: Any
    param_groups: list[dict[str, Any]]


def take(state: State, sgd: Momentum, done: int, losses: Tensor, run: Run) -> dict[str, bytes]:
    """A training before one of its updates; every process of it takes part.

    Args:
        state: As it is.
        sgd: Its optimizer.
        done: Updates done.
        losses: Sum of this epoch's, a scalar.
        run: Its notes and random numbers.

    Returns:
        File name to content.
    """
    tensors, about = pack(state)
    for i, weight in enumerate(sgd.param_groups[0]["params"]):
        if (momentum := sgd.state[weight].get("momentum_buffer")) is not None:
            tensors[f"momentum/{i}"] = momentum
    tensors |= {f"losses/{i}": value for i, value in enumerate(gathered(losses.cpu()))}
    for name, chance in _chance(run).items():
        tensors |= {f"{name}/{i}": value for i, value in enumerate(gathered(chance))}
    about |= {"done": done, "notes": run.notes}
    return {TRAINING: to_bytes(tensors), ABOUT: json.dumps(about, indent=1).encode()}


@torch.no_grad()
def restore(files: Mapping[str, bytes], state: State, sgd: Momentum, run: Run) -> tuple[State, int, Tensor]:
    """Where a training was, over the state that it began with.

    Args:
        files: As ``take`` gave them.
        state: Its model is overwritten in place.
        sgd: A new optimizer of that model's weights.
        run: Its notes and torch's random numbers are overwritten.

    Returns:
        The state, updates done, and the sum of this epoch's losses.
    """
    about, tensors = json.loads(files[ABOUT]), from_bytes(files[TRAINING], run.where)
    for i, weight in enumerate(sgd.param_groups[0]["params"]):
        if (momentum := tensors.get(f"momentum/{i}")) is not None:
            # in the weight's own memory order, as the optimizer made it
            sgd.state[weight]["momentum_buffer"] = torch.empty_like(weight).copy_(momentum)
    for name in _chance(run):
        _set_chance(name, tensors[f"{name}/{rank()}"].cpu(), run)
    run.notes.clear()
    run.notes.update(about["notes"])
    return unpack(state, tensors, about), about["done"], tensors[f"losses/{rank()}"]


def _chance(run: Run) -> dict[str, Tensor]:
    """Where torch's own random numbers are: dropout draws them."""
    found = {"chance": torch.get_rng_state()}
    if run.where.type == "cuda":
        found["chance on the GPU"] = torch.cuda.get_rng_state(run.where)
    return found


def _set_chance(name: str, value: Tensor, run: Run) -> None:
    if name == "chance":
        torch.set_rng_state(value)
    else:
        torch.cuda.set_rng_state(value, run.where)
