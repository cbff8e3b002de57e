"""Every error that secateur raises on purpose.

::

    SecateurError
    ├─ UsageError      (ValueError)    exit 2   a knob, a flag or a plan that cannot mean anything
    │  └─ PlanError                             all faults of one plan, at once
    ├─ DataError       (ValueError)    exit 3   rows, labels, weights or arrays that are not what they claim
    ├─ StoreError      (OSError)       exit 4   a store that cannot be read, written or believed
    │  └─ DamagedEntry                          an entry of it that is not what was written
    └─ StepError       (RuntimeError)  exit 5   a step that could not do its work
       ├─ ClosedView                            it touched rows that its ``reads`` does not name
       ├─ BrokenPromise                         it handed back something that it must not
       └─ NotFinite                             NaN or infinity in a loss, in weights or in logits

Each message says in one sentence what was expected, what came, why it matters and what to do. The command
line prints it without a traceback and exits with the code above; Ctrl-C exits with 130.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar


class SecateurError(Exception):
    """The root: catch this to catch everything that secateur raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(SecateurError, ValueError):
    """A knob, a flag or a plan that cannot mean anything."""

    exit_code = 2


class PlanError(UsageError):
    """All faults of one plan, at once.

    Attributes:
        faults: One sentence each, beginning with the place in the plan.
    """

    def __init__(self, faults: Sequence[str], *, source: str = "the plan") -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        super().__init__(f"{source} has {count}:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


class DataError(SecateurError, ValueError):
    """Rows, labels, weights or arrays that are not what they claim to be."""

    exit_code = 3


class StoreError(SecateurError, OSError):
    """A store that cannot be read, written or believed."""

    exit_code = 4


class DamagedEntry(StoreError):
    """An entry of a store that is not what was written.

    Attributes:
        fault: What is wrong with it.
        place: Its folder, which can go: its plan makes it anew.
    """

    def __init__(self, fault: str, place: Path) -> None:
        self.fault, self.place = fault, place
        super().__init__(f'{fault}: delete the folder "{place}" and run the plan again, nothing else is lost')


class StepError(SecateurError, RuntimeError):
    """A step that could not do its work."""

    exit_code = 5


class ClosedView(StepError):
    """A step touched rows that its ``reads`` does not name."""


class BrokenPromise(StepError):
    """A step handed back something that it must not."""


class NotFinite(StepError):
    """NaN or infinity in a loss, in weights or in logits."""


def told(error: BaseException) -> str:
    """What outside code raised, where: kind, first line of the message, file and line of the code called."""
    first = next(iter(str(error).splitlines()), "")
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return f"{type(error).__name__}: {first}"
    called = [frame for frame in frames if frame.filename == frames[:2][-1].filename][-1]
    return f"{type(error).__name__}: {first} ({called.filename}, line {called.lineno})"


MOST = 24  # options that a message lists


def nearest(name: str, options: Iterable[str]) -> str:
    """The end of a message about an unknown name.

    Args:
        name: What came.
        options: What could have come.

    Returns:
        The nearest right one, else all of them (the first few of many).

    >>> nearest("gama", ["gamma", "lr"])
    'did you mean "gamma"?'
    """
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return "one of: " + ", ".join(options[:MOST]) + ", ..." * (len(options) > MOST)
