"""Ending: SIGTERM as schedulers mean it, with time to put things away. Without torch."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

TERMINATED = 128 + signal.SIGTERM  # the exit code, as a shell tells it
asked = threading.Event()  # to end
training = threading.Event()  # something is under way that looks at ``asked`` before each update
_leaving = threading.Event()  # the exit has begun


def leave() -> NoReturn:
    """End the process as it was asked to.

    Raises:
        SystemExit: With ``TERMINATED``; one more SIGTERM must not fall into the way out, and does nothing.
    """
    _leaving.set()
    sys.exit(TERMINATED)


@contextmanager
def ending() -> Iterator[None]:
    """While this lasts, SIGTERM lets a training be kept and then ends the process with ``TERMINATED``.

    It often comes twice: Slurm sends it to every process, and torchrun or a grid passes its own on. So one
    more changes nothing; Ctrl-C and SIGKILL end the process at once.

    Yields:
        Nothing.
    """

    def end(number: int, frame: FrameType | None) -> None:
        asked.set()
        if not training.is_set() and not _leaving.is_set():
            leave()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if _leaving.is_set() else before)
        asked.clear()
        _leaving.clear()
