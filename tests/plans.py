"""Fixtures: a plan that runs in half a second, and the command line as a user calls it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TINY = """\
device = "cpu"
threads = 1
precision = "fp32"

[data]
use = "digits"
test = 0.8
forget = { how = "class", classes = [3] }

[model]
use = "small-cnn"
width = 2

[[step]]
use = "train"
epochs = 1
batch = 64
lr = 0.1

[[step]]
use = "fine-tune"
as = "unlearn"
epochs = 1
batch = 64

[[audit]]
use = "accuracy"
"""


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def text() -> str:
    """The tiny plan as TOML."""
    return TINY


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The tiny plan as plain values, to be changed at will."""
    return tomllib.loads(TINY)


@pytest.fixture
def cli(capsys, monkeypatch) -> Callable[..., Ran]:
    """The real command line, in this process: ``cli("run", "plan.toml")``."""
    from secateur.cli import main

    monkeypatch.setattr(sys, "path", [*sys.path])  # put back: a plan's folder joins it
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["secateur", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, told.out, told.err)

    return call


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The installed command in a process of its own, which does not outlive the test."""
    script = Path(sys.executable).with_name("secateur")
    started: list[subprocess.Popen[str]] = []

    def start(*words: object, **knobs: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored, where a shell runs us behind
        started.append(subprocess.Popen([script, *map(str, words)], preexec_fn=heard, **pipes, **knobs))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
