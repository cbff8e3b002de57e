"""The lab: plans and grids as data, a store by content, and the runs between them.

Loaded lazily, so that reading a store never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Estimated": "cost",
    "GridStatus": "log",
    "Plan": "plan",
    "Store": "store",
    "Tuned": "tuned",
    "audit_run": "review",
    "check_store": "storekeeping",
    "estimate": "cost",
    "expand": "grid",
    "export_run": "storekeeping",
    "find_unused": "storekeeping",
    "load": "grid",
    "read_plan": "read",
    "rehearse": "tune",
    "remove_unused": "storekeeping",
    "run_grid": "engine",
    "run_plan": "engine",
    "status": "log",
    "to_toml": "toml",
    "tune_plan": "tune",
    "tuned_plans": "tuned",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
