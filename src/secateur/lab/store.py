"""The store: folders by content key, written atomically, verified on read. It knows only bytes and names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from secateur.errors import StoreError

Kind = Literal["steps", "outputs", "runs", "splits", "banks", "audits"]
SUMS = "sums.json"
_WRITING = ".writing-"


def digest(value: Any) -> str:
    """SHA-256 of bytes, or of a JSON-like value in canonical form."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, allow_nan=False).encode()
    return hashlib.sha256(data).hexdigest()


class Store:
    """Entries ``root/<kind>/<key>/``, each a few files and their checksums.

    An entry appears whole or not at all: it is written beside its place, synced to disk and renamed.

    Args:
        root: The folder; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: Kind, key: str) -> Path:
        """Where an entry stands."""
        return self.root / kind / key

    def has(self, kind: Kind, key: str) -> bool:
        """Whether an entry stands there."""
        return (self.path(kind, key) / SUMS).is_file()

    def ready(self) -> None:
        """Make the folder where it is missing, see that it takes a file, remove what killed processes left.

        Raises:
            StoreError: It cannot be written: better told before hours of training than after.
        """
        with self._writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        for left in self.root.glob(f"*/{_WRITING}*"):
            if _is_left(left.name):
                shutil.rmtree(left, ignore_errors=True)

    def put(self, kind: Kind, key: str, files: Mapping[str, bytes]) -> None:
        """Write an entry; one that is already there stays, since the same key means the same content.

        Args:
            kind: Its shelf.
            key: Its key.
            files: Name to content.

        Raises:
            StoreError: The disk is full, read-only, or not ours to write.
        """
        place = self.path(kind, key)
        sums = {name: digest(data) for name, data in files.items()}
        with self._writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            prefix = f"{_WRITING}{platform.node()}-{os.getpid()}-"
            with tempfile.TemporaryDirectory(prefix=prefix, dir=place.parent) as folder:
                made = Path(folder) / "entry"
                made.mkdir()
                for name, data in {**files, SUMS: json.dumps(sums, indent=1).encode()}.items():
                    _write(made / name, data)
                _sync(made)
                self._move(made, place)
                _sync(place.parent)

    def read(self, kind: Kind, key: str, name: str) -> bytes:
        """Read a file, and verify its checksum.

        Args:
            kind: Its shelf.
            key: The entry's key.
            name: The file's name.

        Returns:
            Its content.

        Raises:
            StoreError: It is missing, or not what was written.
        """
        path = self.path(kind, key) / name
        want = self._sums(kind, key).get(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f'cannot read "{path}" ({error.strerror}): delete the folder "{path.parent}" and run the '
                "plan again, nothing else is lost"
            ) from error
        if digest(data) != want:
            raise StoreError(
                f'"{path}" is not what was written (its checksum differs): delete the folder "{path.parent}" '
                "and run the plan again, nothing else is lost"
            )
        return data

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

    def _sums(self, kind: Kind, key: str) -> dict[str, str]:
        path = self.path(kind, key) / SUMS
        try:
            return {str(name): str(sum_) for name, sum_ in json.loads(path.read_bytes()).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise StoreError(
                f'cannot read the checksums "{path}" ({error}): delete the folder "{path.parent}" and run '
                "the plan again, nothing else is lost"
            ) from error

    @contextlib.contextmanager
    def _writing(self, place: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f'cannot write "{place}" ({error.strerror or error}): free or unlock the disk, or name '
                "another --store; what was finished is kept"
            ) from error


def _is_left(name: str) -> bool:
    """Whether the process that writes here is gone; one on another host is left alone."""
    host, _, rest = name.removeprefix(_WRITING).rpartition("-")[0].rpartition("-")
    if host != platform.node():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
