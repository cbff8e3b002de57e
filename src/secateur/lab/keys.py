"""Keys: what a result depends on, as a hash. Equal keys mean equal bits, so nothing is computed twice."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import __version__, knobs
from secateur.card import name_of
from secateur.data import Split
from secateur.lab.plan import ModelPlan, PlannedStep
from secateur.lab.store import digest
from secateur.run import Run


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where a chain of steps has come to.

    Attributes:
        key: Of all that came before.
        masks: Digest of the masks; "dense" without any.
        depth: Steps taken.
    """

    key: str
    masks: str = "dense"
    depth: int = 0


def root_key(split: Split, augment: Any, model: ModelPlan, built: dict[str, Any], run: Run) -> str:
    """What every chain of a plan stands on: pool, preprocessing, model, initial weights, precision, device, versions.

    Neither the seed nor the forget set: all forget sets share a training, and a step that starts anew shares by its own seed.
    """
    weights = digest(Path(model.weights).read_bytes()) if model.weights else None
    return digest({
        "pool": split.pool.fingerprint,
        "augment": identity(augment),
        "model": [model.use, built, identity(model.call), weights],
        "run": run.describe(),
    })


def start(root: str, seed: int) -> Link:
    """The beginning of a chain: a newly initialised model under a seed."""
    return Link(key=digest({"root": root, "seed": seed}))


def step_key(root: str, link: Link, planned: PlannedStep, split: Split, seed: int) -> str:
    """The key of a step's result.

    A step that starts anew is keyed by what it uses (masks, depth), any other by all that came before it; both by their
    knobs, the card's version, the seed, and the contents of the rows that they read, each role by itself.
    """
    step = planned.step
    views = {"pool": split.pool, "forget": split.forget, "retain": split.retain}
    return digest({
        "after": {"root": root, "masks": link.masks, "depth": link.depth} if step.card.anew else link.key,
        "step": [name_of(type(step)), identity(type(step)), knobs.values(step), step.card.version],
        "seed": seed,
        "rows": {role: views[role].fingerprint for role in step.reads},
    })


def identity(thing: Any) -> Any:
    """What tells a function, a class or an object from another: of outside code also its whole source file."""
    if thing is None:
        return None
    if not hasattr(thing, "__qualname__"):
        return [repr(thing), identity(type(thing))]
    name = f"{thing.__module__}:{thing.__qualname__}"
    if thing.__module__.startswith("secateur."):
        return [name, __version__]
    file = inspect.getsourcefile(thing)
    return [name, digest(Path(file).read_bytes()) if file else None]
