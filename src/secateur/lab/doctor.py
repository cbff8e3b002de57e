"""What this machine offers, and what would stand in the way."""

from __future__ import annotations

import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

from secateur import __version__
from secateur.run import Run


class Check(NamedTuple):
    """One thing looked at: whether it is fine, what it is, what was found."""

    ok: bool
    what: str
    found: str


def examine(store: Path) -> list[Check]:
    """Look at versions, device, precision, threads and the store.

    Args:
        store: The folder of results; nothing is left in it.

    Returns:
        The checks.
    """
    run = Run()
    checks = [
        Check(True, "secateur", __version__),
        Check(True, "python", platform.python_version()),
        Check(True, "torch", torch.__version__),
        Check(True, "device", torch.cuda.get_device_name() if run.where.type == "cuda" else "cpu"),
        Check(True, 'precision "auto"', run.resolved),
        Check(True, "threads", str(run.threads)),
    ]
    for package in ("scikit-learn", "scipy", "safetensors", "pydantic", "matplotlib"):
        try:
            checks.append(Check(True, package, version(package)))
        except PackageNotFoundError:
            checks.append(Check(False, package, f"missing: pip install {package}"))
    checks.append(_store(store))
    return checks


def _store(store: Path) -> Check:
    """Whether the store, or the nearest folder that exists above it, takes a file."""
    folder = next((place for place in (store, *store.absolute().parents) if place.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check(True, "store", f"{store} can be written")
    except OSError as error:
        return Check(False, "store", f"{store} cannot be written ({error.strerror}): name another --store")
