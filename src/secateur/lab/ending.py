"""Ending: SIGTERM as schedulers mean it, with time to put things away. Without torch."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # the exit code, as a shell tells it
asked = threading.Event()  # to end
training = threading.Event()  # something is under way that looks at ``asked`` before each update


@contextmanager
def ending() -> Iterator[None]:
    """While this lasts, SIGTERM lets a training be kept and then ends the process with ``TERMINATED``.

    Yields:
        Nothing.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if training.is_set() and not asked.is_set():
            asked.set()
        else:
            sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        asked.clear()
