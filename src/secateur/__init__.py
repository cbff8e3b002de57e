"""Secateur makes a trained classifier forget chosen training data, and proves how well it did.

Every public name below is loaded when it is first used, so a report never waits for torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# public name -> the module that holds it; a name without one is a module itself
_HOMES = {
    "Applied": "step",
    "Audit": "audit",
    "Batch": "data",
    "Card": "card",
    "Estimate": "record",
    "Evidence": "evidence",
    "Finding": "record",
    "Loader": "data",
    "Mark": "state",
    "Needs": "audit",
    "Outputs": "outputs",
    "Record": "record",
    "Reference": "evidence",
    "Role": "data",
    "Run": "run",
    "Sgd": "optimize",
    "Split": "split",
    "State": "state",
    "Step": "step",
    "StepTrace": "record",
    "View": "data",
    "apply": "step",
    "crop_flip": "maths.augment",
    "cross_entropy": "optimize",
    "judge": "audit",
    "measure": "observe",
    "observe": "observe",
    "optimize": "optimize",
    "paired": "data",
}
_MODULES = ("audits", "data", "errors", "knobs", "lab", "maths", "report", "stats", "steps", "testing", "zoo")

__all__ = [*_HOMES, *_MODULES]


class _Face(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        elif name in _MODULES:
            found = importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        setattr(self, name, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        # importing secateur.observe sets the module over the function of the same name: keep the function
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted([*__all__, "__version__"])


sys.modules[__name__].__class__ = _Face
