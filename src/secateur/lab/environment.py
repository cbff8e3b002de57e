"""What a record says of the machine and the packages that a run was made with."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from secateur import __version__
from secateur.run import Run


def versions(model: nn.Module) -> dict[str, str]:
    """Python and packages to their versions, those that layers of the model come from among them."""
    found = dict(_everywhere())
    for name in sorted({type(module).__module__.partition(".")[0] for module in model.modules()}):
        with suppress(PackageNotFoundError):  # a module of the user's own
            found[name] = version(name)
    return found


def hardware(run: Run) -> Mapping[str, Any]:
    """Operating system, cores, and the names of CPU and GPU."""
    gpu = torch.cuda.get_device_name(run.where) if run.where.type == "cuda" else None
    return {"system": f"{platform.system()} {platform.machine()}", "cpus": cpus(), "cpu": _cpu(), "gpu": gpu}


def cpus() -> int | None:
    """Cores that this process may use; None where nobody knows."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


@functools.cache
def _everywhere() -> Mapping[str, str]:
    packages = ("torch", "numpy", "scipy", "scikit-learn", "safetensors")
    return {
        "secateur": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
