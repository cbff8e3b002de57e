"""The store: folders by content key, written atomically, verified on read. It knows only bytes and names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from secateur.errors import DamagedEntry, StoreError
from secateur.lab.locks import Locks, Maker

Kind = Literal["steps", "outputs", "runs", "splits", "banks", "audits", "checkpoints"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SUMS, USES = "sums.json", "uses.json"
FORMAT = 1  # of entries; SUMS names it under "format" where it is a later one
_WRITING = ".writing-"
_DAY = 24 * 3600.0


def digest(value: Any) -> str:
    """SHA-256 of bytes, or of a JSON-like value in canonical form."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, allow_nan=False).encode()
    return hashlib.sha256(data).hexdigest()


class Store:
    """Entries ``root/<kind>/<key>/``, each a few files and their checksums.

    An entry appears whole or not at all: it is written beside its place, synced to disk and renamed. From its
    first entry on, a store holds a shared lock on the folder until it is gone, so that nothing is tidied away
    under a living process. Beside that, whoever makes an entry locks it: see ``making``.

    Args:
        root: The folder; made at the first write.

    Attributes:
        used: Kind and key of every entry that was found, read or written here.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.used: set[tuple[Kind, str]] = set()
        self._handle: int | None = None
        self._locks = Locks(root)

    def path(self, kind: Kind, key: str) -> Path:
        """Where an entry stands."""
        return self.root / kind / key

    def has(self, kind: Kind, key: str) -> bool:
        """Whether an entry stands there."""
        self._hold()
        found = (self.path(kind, key) / SUMS).is_file()
        if found:
            self.used.add((kind, key))
        return found

    @contextlib.contextmanager
    def making(self, kind: Kind, key: str, what: str) -> Iterator[bool]:
        """Be the one process that makes an entry; while another one does, wait.

        Args:
            kind: Its shelf.
            key: Its key.
            what: What this process does meanwhile, as a sentence about it goes on.

        Yields:
            Whether it is to be made: it was not there, nor has another process made it meanwhile.

        Raises:
            StoreError: A lock cannot be written.
        """
        missing = not self.has(kind, key)
        with self.alone_with(kind, [key], what) if missing else contextlib.nullcontext():
            yield missing and not self.has(kind, key)

    @contextlib.contextmanager
    def alone_with(self, kind: Kind, keys: Iterable[str], what: str) -> Iterator[None]:
        """Keep other processes from making or removing some entries while this lasts.

        Args:
            kind: Their shelf: while this process holds locks, one that comes earlier in ``KINDS``.
            keys: Their keys.
            what: What this process does meanwhile, as a sentence about it goes on.

        Yields:
            Nothing.

        Raises:
            StoreError: A lock cannot be written.
        """
        with contextlib.ExitStack() as held:
            names, order = [f"{kind}-{key}" for key in keys], KINDS.index(kind)
            with self._writing(self.root):
                held.enter_context(self._locks.hold(names, order=order, what=what))
            yield

    def maker(self, kind: Kind, key: str) -> Maker | None:
        """The process that makes an entry now, where one does and that can be seen."""
        return self._locks.maker(f"{kind}-{key}")

    def ready(self) -> None:
        """Make the folder where it is missing, see that it takes a file, remove what killed processes left.

        Raises:
            StoreError: It cannot be written: better told before hours of training than after.
        """
        with self._writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        self._hold()
        for left in self.left():
            shutil.rmtree(left, ignore_errors=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove the locks of processes that are gone."""
        self._locks.sweep()

    def keys(self, kind: Kind) -> list[str]:
        """The keys of a shelf, those of folders without checksums among them."""
        found = (self.root / kind).glob("*")
        return sorted(path.name for path in found if path.is_dir() and not path.name.startswith(_WRITING))

    def left(self) -> list[Path]:
        """Temporary folders that nobody writes any more; of another machine, those a day old."""
        # in the shelves alone: other folders, such as that of locks, may go while they are looked through
        found = [path for kind in KINDS for path in (self.root / kind).glob(f"{_WRITING}*")]
        return sorted(path for path in found if _is_left(path))

    def put(
        self, kind: Kind, key: str, files: Mapping[str, bytes], uses: Iterable[tuple[Kind, str]] = ()
    ) -> None:
        """Write an entry; one that is already there stays, since the same key means the same content.

        Args:
            kind: Its shelf.
            key: Its key.
            files: Name to content.
            uses: Kind and key of entries that are to stay for as long as this one does.

        Raises:
            StoreError: The disk is full, read-only, or not ours to write.
        """
        place = self.path(kind, key)
        if needed := sorted({f"{shelf}/{name}" for shelf, name in uses}):
            files = {**files, USES: json.dumps(needed, indent=1).encode()}
        sums = {name: digest(data) for name, data in files.items()}
        with self._writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            self._hold()
            with _beside(place) as made:
                write_files(made, {**files, SUMS: json.dumps(sums, indent=1).encode()})
                self._move(made, place)
                sync(place.parent)
        self.used.add((kind, key))

    def read(self, kind: Kind, key: str, name: str) -> bytes:
        """Read a file, and verify its checksum.

        Args:
            kind: Its shelf.
            key: The entry's key.
            name: The file's name.

        Returns:
            Its content.

        Raises:
            DamagedEntry: It is missing, or not what was written.
            StoreError: It cannot be read, or a newer version wrote it.
        """
        self._hold()
        self.used.add((kind, key))
        path = self.path(kind, key) / name
        want = self._sums(kind, key).get(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise DamagedEntry(f'cannot read "{path}" ({error.strerror})', path.parent) from error
        except OSError as error:
            raise StoreError(_away(path, error)) from error
        if digest(data) != want:
            raise DamagedEntry(f'"{path}" is not what was written (its checksum differs)', path.parent)
        return data

    def names(self, kind: Kind, key: str) -> list[str]:
        """The files of an entry."""
        return [name for name in self._sums(kind, key) if name != USES]

    def faults(self, kind: Kind, key: str) -> list[StoreError]:
        """What ``read`` raises for the files of an entry."""
        found = list[StoreError]()
        try:
            names = [*self._sums(kind, key)]
        except StoreError as error:
            return [error]
        for name in names:
            try:
                self.read(kind, key, name)
            except StoreError as error:
                found.append(error)
        return found

    def uses(self, kind: Kind, key: str) -> list[str] | None:
        """What an entry keeps from being tidied away, as ``kind/key``; None where that was not written."""
        if USES not in self._sums(kind, key):
            return None
        return list(json.loads(self.read(kind, key, USES)))

    @contextlib.contextmanager
    def first(self) -> Iterator[bool]:
        """For what one process does where several call this store together; here there is one.

        Yields:
            Whether this is the one.
        """
        yield True

    def drop(self, place: Path) -> None:
        """Remove an entry or a leftover: whole or not at all, for whoever looks meanwhile.

        Args:
            place: Its folder.

        Raises:
            StoreError: It is not ours to remove.
        """
        with self._writing(place), contextlib.suppress(FileNotFoundError):
            if not place.name.startswith(_WRITING):  # renamed, not copied: it must work on a full disk
                gone = place.with_name(f"{_mine()}{place.name}")
                place = place.rename(gone)
            shutil.rmtree(place)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out while this lasts; those that come wait.

        Yields:
            Nothing.

        Raises:
            StoreError: A living process works here.
        """
        self._hold()
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f'expected "{self.root}" to be at rest, and a living process holds it: what it has made is '
                "not yet part of a run, so nothing was removed; wait until it has ended"
            ) from error
        except OSError as error:
            raise StoreError(
                f'expected to lock "{self.root}", but cannot ({error.strerror}): whether a living process '
                "works there is not known, so nothing was removed; ask on the machine that has the disk"
            ) from error
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_SH)

    def sum(self, kind: Kind, key: str, name: str) -> str:
        """The SHA-256 of a file, as it was written."""
        return self._sums(kind, key)[name]

    def _move(self, made: Path, place: Path) -> None:
        """Put a finished folder in its place, which another process may do at the same moment."""
        if place.exists() and not (place / SUMS).is_file():
            shutil.rmtree(place)  # somebody took files out: without checksums it is no entry
        try:
            made.rename(place)
        except OSError:
            if not (place / SUMS).is_file():
                raise

    def _hold(self) -> None:
        if self._handle is None:
            with contextlib.suppress(OSError):  # no folder yet, or no locks there: then ``alone`` refuses
                handle = os.open(self.root, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH)
                except BaseException:
                    os.close(handle)
                    raise
                weakref.finalize(self, os.close, handle)
                self._handle = handle

    def _lock(self, how: int) -> None:
        if self._handle is None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        fcntl.flock(self._handle, how)

    def _sums(self, kind: Kind, key: str) -> dict[str, str]:
        path = self.path(kind, key) / SUMS
        try:
            sums = {str(name): str(sum_) for name, sum_ in json.loads(path.read_bytes()).items()}
        except (FileNotFoundError, ValueError, AttributeError) as error:
            raise DamagedEntry(f'cannot read the checksums "{path}" ({error})', path.parent) from error
        except OSError as error:
            raise StoreError(_away(path, error)) from error
        if (later := sums.pop("format", str(FORMAT))) != str(FORMAT):
            raise StoreError(
                f'expected an entry of format {FORMAT} in "{path.parent}", got {later}, which a newer '
                "version of secateur wrote: read it with that one, or name another --store"
            )
        return sums

    @contextlib.contextmanager
    def _writing(self, place: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f'cannot write "{place}" ({error.strerror or error}): free or unlock the disk, or name '
                "another --store; what was finished is kept"
            ) from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder, and see them to the disk."""
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync(folder)


def sync(folder: Path) -> None:
    """See the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _away(path: Path, error: OSError) -> str:
    return (
        f'cannot read "{path}" ({error.strerror}), which may be whole: see that its disk is there, and that '
        "you may read it"
    )


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """An empty folder to be moved to a place on the same disk; what stays in it goes."""
    with tempfile.TemporaryDirectory(prefix=_mine(), dir=place.parent) as folder:
        made = Path(folder) / "entry"  # inside, so that others may read it where the umask lets them
        made.mkdir()
        yield made


def _mine() -> str:
    """How the names of this process's temporary folders begin."""
    return f"{_WRITING}{platform.node()}-{os.getpid()}-"


def _is_left(path: Path) -> bool:
    """Whether the process that writes here is gone; of one on another host nobody knows for a day."""
    host, _, rest = path.name.removeprefix(_WRITING).rpartition("-")[0].rpartition("-")
    if host == platform.node():
        try:
            os.kill(int(rest), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    with contextlib.suppress(OSError):
        latest = max(one.stat().st_mtime for one in (path, *path.glob("entry")))
        return time.time() - latest > _DAY
    return False
