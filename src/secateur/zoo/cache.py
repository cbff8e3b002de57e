"""Decoded data sets on disk: written once, in one move, and verified when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# raised when the same source would decode to other bytes
VERSION = 2


def folder() -> Path:
    """Where decoded images lie: ``$SECATEUR_CACHE``, else ``secateur`` in the user's cache folder."""
    if named := os.environ.get("SECATEUR_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"


def load(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was saved under a key.

    Args:
        key: JSON-like.

    Returns:
        Name to array or list; None where nothing whole is there: what is damaged is made again.
    """
    at = _at(key)
    try:
        sum_, _, words = (at / "told.json").read_text().partition("\n")
        if hashlib.sha256(words.encode()).hexdigest() != sum_:
            return None
        told = json.loads(words)
        found: dict[str, Any] = dict(told["lists"])
        for name, (file, sum_) in told["arrays"].items():
            # before it is parsed: a damaged header could ask for any amount of memory
            if _sum(at / file) != sum_:
                return None
            found[name] = np.load(at / file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found


def save(key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Keep arrays and lists under a key.

    Args:
        key: JSON-like.
        values: Name to array, or to a list of words. Where the cache cannot be written, a warning says so,
            and the next start decodes again.
    """
    at = _at(key)
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=at.parent, prefix=".writing-") as scratch:
            whole = Path(scratch, "entry")  # inside, so that others may read it where the umask lets them
            whole.mkdir()
            _write(whole, values)
            try:
                whole.replace(at)
            except OSError:
                if load(key) is not None:  # another process was faster, with the same
                    return
                shutil.rmtree(at, ignore_errors=True)
                whole.replace(at)
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be kept in {folder()} ({error.strerror or error}), so the next start "
            "decodes them again: name another folder as SECATEUR_CACHE",
            stacklevel=2,
        )


def _write(at: Path, values: Mapping[str, Any]) -> None:
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    told: dict[str, Any] = {
        "lists": {name: value for name, value in values.items() if name not in arrays},
        "arrays": {},
    }
    for number, (name, array) in enumerate(arrays.items()):
        file = at / f"{number}.npy"
        np.save(file, array, allow_pickle=False)
        told["arrays"][name] = (file.name, _sum(file))
    words = json.dumps(told)
    (at / "told.json").write_text(f"{hashlib.sha256(words.encode()).hexdigest()}\n{words}")


def _at(key: Mapping[str, Any]) -> Path:
    words = json.dumps({"version": VERSION, **key}, sort_keys=True)
    return folder() / "images" / hashlib.sha256(words.encode()).hexdigest()[:32]


def _sum(file: Path) -> str:
    with file.open("rb") as held:
        return hashlib.file_digest(held, "sha256").hexdigest()
