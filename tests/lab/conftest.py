"""The tiny plan and the command line (see ``tests/plans.py``), a store, and steps of somebody else's."""

import sys

import pytest

from ..plans import cli, command, text, tiny

__all__ = ["cli", "command", "text", "tiny"]

OUTSIDE = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from secateur.card import Card

@dataclass(frozen=True, kw_only=True)
class Deadly:
    """Kills its process, as often as there are words left in a file.

    Attributes:
        path: The file.
    """

    card = Card(summary="Kills its process.", paper="", data="none", version=1)
    reads = frozenset()
    path: str

    def __call__(self, state, run):
        words = Path(self.path).read_text().split()
        Path(self.path).write_text(" ".join(words[1:]))
        if words:
            os.kill(os.getpid(), signal.SIGKILL)
        return state


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Takes its time, and says who it is.

    Attributes:
        path: A folder.
    """

    card = Card(summary="Takes its time.", paper="", data="none", version=1)
    reads = frozenset()
    path: str

    def __call__(self, state, run):
        (Path(self.path) / str(os.getpid())).touch()
        time.sleep(300)
        return state
'''


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module of somebody else's, where this process and those that it starts find it."""
    (tmp_path / "outside.py").write_text(OUTSIDE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("outside", None)
