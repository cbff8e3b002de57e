"""Keys: what a result depends on, as a hash. Equal keys mean equal bits, so nothing is computed twice."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import __version__, knobs
from secateur.card import name_of
from secateur.lab.plan import DataPlan, ModelPlan, PlannedStep, Table
from secateur.lab.store import digest
from secateur.run import Run
from secateur.split import Split


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


def root_key(split: Split, augment: Any, data: DataPlan, model: ModelPlan, built: Table, run: Run) -> str:
    """What every chain of a plan stands on.

    Neither the seed nor the forget set is in it: all forget sets share a training, and a step that starts
    anew shares by its own seed.

    Args:
        split: Its pool counts.
        augment: Of the data; None without.
        data: Where the augmentation comes from; one from outside may depend on its knobs.
        model: The network, and initial weights.
        built: What the network is called with.
        run: Precision, device, threads, versions.

    Returns:
        The key.
    """
    weights = digest(Path(model.weights).read_bytes()) if model.weights else None
    prepared = augment and identity(augment)
    if augment and (outside := sources(_module(data.use))):
        prepared = [data.use, outside, _words(data.knobs), prepared]
    return digest({
        "pool": split.pool.fingerprint,
        "augment": prepared,
        "model": [model.use, sources(_module(model.use)), _words(built), identity(model.call), weights],
        "run": run.describe(),
    })


def start(root: str, seed: int) -> Link:
    """The beginning of a chain: a newly initialised model under a seed."""
    return Link(key=digest({"root": root, "seed": seed}))


def step_key(root: str, link: Link, planned: PlannedStep, split: Split, seed: int) -> str:
    """The key of a step's result.

    A step that starts anew is keyed by what it uses (masks, depth), any other by all that came before it;
    both by their knobs, the card's version, the seed, and the contents of the rows that they read, each role
    by itself.

    Args:
        root: From ``root_key``.
        link: What the step follows.
        planned: The step.
        split: The rows.
        seed: Of the step's streams.

    Returns:
        The key.
    """
    step = planned.step
    views = {"pool": split.pool, "forget": split.forget, "retain": split.retain}
    after = {"root": root, "masks": link.masks, "depth": link.depth} if step.card.anew else link.key
    return digest({
        "after": after,
        "step": [name_of(type(step)), identity(type(step)), knobs.values(step), step.card.version],
        "seed": seed,
        "rows": {role: views[role].fingerprint for role in step.reads},
    })


def identity(thing: Any) -> Any:
    """What tells a function, a class or an object from another, in any process.

    Args:
        thing: A function, a class, a partial, or an object whose ``repr`` tells its settings.

    Returns:
        JSON-like; of outside code also what it closes over, and the digests of its ``sources``.
    """
    if isinstance(thing, functools.partial):
        return [identity(thing.func), _words(dict(enumerate(thing.args))), _words(thing.keywords)]
    if not hasattr(thing, "__qualname__"):
        return [_told(thing), _words(getattr(thing, "__dict__", {})), identity(type(thing))]
    name = f"{thing.__module__}:{thing.__qualname__}"
    if name.startswith("secateur."):
        return [name, __version__]
    held = inspect.getclosurevars(thing).nonlocals if inspect.isfunction(thing) else {}
    return [name, _words(held), sources(inspect.unwrap(thing).__module__)]


def sources(module: str) -> dict[str, str]:
    """Digests of the source files of an outside module, and of all that its globals come from.

    Installed packages and the standard library are left out: their versions are not part of a key. So is a
    module that a function imports while it runs, which no global shows.

    Args:
        module: A name in ``sys.modules``.

    Returns:
        Module name to digest.
    """
    found: dict[str, str] = {}
    waiting, met = [module], {module}
    while waiting:
        name = waiting.pop()
        code = sys.modules.get(name)
        file = getattr(code, "__file__", None)
        if file is None or not _own(name, Path(file)):
            continue
        found[name] = digest(Path(file).read_bytes())
        for value in list(vars(code).values()):
            other = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            if isinstance(other, str) and other not in met:
                met.add(other)
                waiting.append(other)
    return found


def _own(name: str, file: Path) -> bool:
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return not installed and name.partition(".")[0] not in {*sys.stdlib_module_names, "secateur"}


def _module(use: str) -> str:
    return use.partition(":")[0] if ":" in use else ""


def _words(values: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): _told(value) for name, value in values.items()}


def _told(value: Any) -> str:
    """A ``repr`` without the address in memory, which is another one in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
