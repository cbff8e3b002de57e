"""Locks: which process makes which entry of a store now. The kernel frees those of a process that dies."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

FOLDER = "locks"
PAUSE = 0.05  # seconds between two tries
GRACE = 0.3  # seconds of waiting that nobody is told of
_WITHOUT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of a disk that has no locks
_log = logging.getLogger("secateur.store")


class Maker(NamedTuple):
    """The process that makes an entry; 0 where it has not said its number."""

    pid: int
    host: str

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        return f"process {self.pid}" + (f" on {self.host}" if self.host != platform.node() else "")


class Waiting:
    """One wait, which is told once, when it gets long.

    Args:
        what: What the other process does.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._begun, self._told = time.monotonic(), False

    def pause(self, maker: Maker, seconds: float = PAUSE) -> None:
        """Wait a little; a signal may end it, as any sleep.

        Args:
            maker: Whom this process waits for.
            seconds: How long.
        """
        if not self._told and time.monotonic() > self._begun + GRACE:
            self._told = True
            _log.warning("waiting for %s, which %s", maker, self.what)
        time.sleep(seconds)


class _Mine(threading.local):
    """Files that this thread holds locked, and the order of each."""

    def __init__(self) -> None:
        self.held: dict[Path, int] = {}


_mine = _Mine()


class Locks:
    """Locks in a folder of a store: a file each, there while somebody works.

    Whoever holds a lock asks only for locks of a lower order, and several of one order are asked for at once
    and taken by name: so no two processes can wait for each other. On a disk without locks nobody waits.

    Args:
        root: The store's folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root.absolute() / FOLDER

    @contextmanager
    def hold(self, names: Iterable[str], *, order: int, what: str) -> Iterator[None]:
        """Hold locks, once other processes have let them go; those that this thread holds already it has.

        Args:
            names: Of the locks.
            order: Lower than that of all locks which this thread holds.
            what: What this process does meanwhile, for those that wait.

        Yields:
            Nothing.

        Raises:
            OSError: A lock's file cannot be made.
        """
        paths = [self._folder / name for name in sorted(set(names))]
        paths = [path for path in paths if path not in _mine.held]
        held_back = [path.name for path, other in _mine.held.items() if other <= order]
        assert not paths or not held_back, (
            f"a lock of order {order} is asked for while these are held: {held_back}"
        )
        waiting = Waiting(what)
        with ExitStack() as held:
            for path in paths:
                while isinstance(handle := _take(path), Maker):
                    waiting.pause(handle)
                held.callback(_mine.held.pop, path)
                _mine.held[path] = order
                if handle is not None:
                    held.callback(_leave, path, handle)
            yield

    def maker(self, name: str) -> Maker | None:
        """Who holds a lock; None where nobody does, or where that cannot be seen."""
        try:
            handle = os.open(self._folder / name, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said(handle)
        except OSError:
            return None
        finally:
            os.close(handle)
        return None

    def sweep(self) -> None:
        """Remove the files of processes that are gone."""
        for path in self._folder.glob("*"):
            with suppress(OSError):
                handle = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _stands(path, handle):
                        path.unlink()
                finally:
                    os.close(handle)
        with suppress(OSError):
            self._folder.rmdir()


def _take(path: Path) -> int | Maker | None:
    """A handle that locks the file of this name; else who has it; None on a disk without locks."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):  # whoever left last took the folder along
            if path.parent.is_file():
                raise
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands(path, handle):
                with suppress(OSError):  # on a full disk: then those that wait are not told a number
                    os.pwrite(handle, json.dumps([os.getpid(), platform.node()]).encode(), 0)
                kept, handle = handle, -1
                return kept
        except BlockingIOError:
            return _said(handle)
        except OSError as error:
            if error.errno not in _WITHOUT:
                raise
            path.unlink(missing_ok=True)
            return None
        finally:
            if handle >= 0:
                os.close(handle)


def _leave(path: Path, handle: int) -> None:
    """Removed first, then unlocked: who got the old file locked meanwhile sees that its name is gone."""
    with suppress(OSError):  # one that stays is nobody's, and goes with the next sweep
        path.unlink()
    with suppress(OSError):  # by itself: a child made by fork has the handle too
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
    with suppress(OSError):
        path.parent.rmdir()


def _stands(path: Path, handle: int) -> bool:
    """Whether a name still leads to the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _said(handle: int) -> Maker:
    """Who wrote itself into a file; it may be about to."""
    try:
        pid, host = json.loads(os.pread(handle, 4096, 0))
        return Maker(int(pid), str(host))
    except (OSError, ValueError, TypeError):
        return Maker(0, "")
