"""A store for processes that take each step together: rank 0 writes, and all see what it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from secateur.errors import DamagedEntry, SecateurError, StoreError
from secateur.lab.mend import remove
from secateur.lab.store import Kind, Store
from secateur.ranks import rank, told, world


def store_at(root: Path) -> Store:
    """The store in a folder, for this process alone or for all that were started with it."""
    return Store(root) if world() == 1 else SharedStore(root)


class SharedStore(Store):
    """A store on a disk that all processes of one training see; each calls it in the same order.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._first = False

    def has(self, kind: Kind, key: str) -> bool:
        """Whether rank 0 sees the entry; a damaged one it removes, so that nobody reads it."""
        found = False

        def look() -> None:
            nonlocal found
            found = super(SharedStore, self).has(kind, key)
            for fault in self.faults(kind, key) if found and not self._first else ():
                if not isinstance(fault, DamagedEntry):
                    raise fault
                remove(fault)
                found = False

        if self._first:
            look()
            return found
        self._do(look)
        return told("there" if found else "not there") == "there"

    def ready(self) -> None:
        """As of any store, by rank 0."""
        self._do(super().ready)
        self._hold()

    def put(
        self, kind: Kind, key: str, files: Mapping[str, bytes], uses: Iterable[tuple[Kind, str]] = ()
    ) -> None:
        """As of any store, by rank 0; the others wait until it stands there."""
        self._do(lambda: super(SharedStore, self).put(kind, key, files, uses))

    @contextmanager
    def alone_with(self, kind: Kind, keys: Iterable[str], what: str) -> Iterator[None]:
        """As of any store: rank 0 keeps others than these processes out.

        Yields:
            Nothing.
        """
        with ExitStack() as held:
            alone = super().alone_with(kind, keys, what)
            self._do(lambda: held.enter_context(alone))
            yield

    @contextmanager
    def first(self) -> Iterator[bool]:
        """For what rank 0 does by itself, while the others wait.

        Yields:
            Whether this is rank 0.

        Raises:
            SecateurError: It failed: as it did in rank 0, and as rank 0 told in the others.
        """
        if rank():
            yield False
            self._hear("")
            return
        self._first = True
        try:
            yield True
        except SecateurError as error:
            told(str(error))
            raise
        finally:
            self._first = False
        told("")

    def _do(self, work: Callable[[], None]) -> None:
        if self._first:
            work()
            return
        if rank():
            self._hear("")
            return
        try:
            work()
        except SecateurError as error:
            told(str(error))
            raise
        told("")

    def _hear(self, text: str) -> None:
        if problem := told(text):
            raise StoreError(problem)
