"""Keeping a store: find its faults, remove what no run needs, take a run out of it. Without torch."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from secateur.errors import DataError, StoreError, UsageError
from secateur.lab.review import FINDINGS, find_run
from secateur.lab.store import KINDS, Kind, Store, digest, sync, write_files
from secateur.lab.toml import to_toml
from secateur.record import Record

if TYPE_CHECKING:
    from secateur.run import Progress

Entry = tuple[Kind, str]
RECORD, META, PLAN = "record.json", "meta.json", "plan.toml"
_log = logging.getLogger("secateur.store")
CLOCK = {"label", "seconds", "peak_bytes", "made"}  # of a trace: what is another each time


class Shelf(NamedTuple):
    """How much stands on one shelf: entries, files, bytes."""

    kind: Kind
    entries: int
    files: int
    bytes: int


class Fault(NamedTuple):
    """Where something is wrong, below the store, and what, in one sentence."""

    where: str
    what: str


class Checked(NamedTuple):
    """What ``check_store`` found."""

    shelves: tuple[Shelf, ...]
    faults: tuple[Fault, ...]


class Unused(NamedTuple):
    """A folder that no run needs: its path below the store, and bytes."""

    path: str
    bytes: int


def check_store(store: Path, progress: Progress | None = None) -> Checked:
    """Read every entry of a store from end to end.

    Args:
        store: The folder of results.
        progress: Where to show how far it has come.

    Returns:
        What there is, and every fault: a file that is missing or not what was written, an entry that a run
        needs and that is gone, one of a newer version, a folder that a killed process left.

    Raises:
        StoreError: There is no such folder.
    """
    shelf = _opened(store)
    found = {kind: shelf.keys(kind) for kind in KINDS}
    counts, faults = [], list[Fault]()
    needs = _Needs(shelf)
    shown = (
        progress.bar("entries", sum(map(len, found.values()))) if progress else nullcontext(lambda _: None)
    )
    with shown as advance:
        for kind, keys in found.items():
            sizes = list[int]()
            for key in keys:
                sizes += _sizes(shelf.path(kind, key))
                wrong = [str(fault) for fault in shelf.faults(kind, key)] or needs.missing(kind, key)
                faults += [Fault(f"{kind}/{key}", what) for what in wrong]
                advance(1)
            counts.append(Shelf(kind, len(keys), len(sizes), sum(sizes)))
    for path in shelf.left():
        where = str(path.relative_to(store))
        faults.append(
            Fault(
                where, f'"{path}" was left by a process that was killed: remove it by secateur store gc --yes'
            )
        )
    return Checked(tuple(counts), tuple(faults))


def find_unused(store: Path) -> list[Unused]:
    """What no run of a store needs: entries of runs that were not finished, of searches, of deleted runs.

    A run needs its steps, its references, what its models said, its split, and all that an audit of it with
    references of its own has made. Checkpoints of a step that is not finished are hours of work, and stay;
    they are told.

    Args:
        store: The folder of results.

    Returns:
        Entries, and folders that killed processes left.

    Raises:
        StoreError: There is no such folder, or a run cannot be read, so that nobody knows what it needs.
    """
    shelf = _opened(store)
    found = _unused(shelf)
    if kept := _unfinished(shelf):
        count = "1 checkpoint" if len(kept) == 1 else f"{len(kept):,} checkpoints"
        size = sum(size for entry in kept for size in _sizes(shelf.path(*entry)))
        _log.warning(
            "%s of steps that are not finished, %s bytes, will stay: the same command goes on from there; "
            'to give them up, delete "%s"',
            count,
            f"{size:,}",
            store / "checkpoints",
        )
    return found


def remove_unused(store: Path, found: list[Unused]) -> list[Unused]:
    """Remove what no run needs.

    Args:
        store: The folder of results.
        found: From ``find_unused``; what a run has come to need since then stays.

    Returns:
        What was removed.

    Raises:
        StoreError: A living process holds the store, a run cannot be read, or a folder is not ours to remove.
    """
    shelf = _opened(store)
    with shelf.alone():
        still = {one.path for one in _unused(shelf)}
        going = [one for one in found if one.path in still]
        for one in going:
            shelf.drop(store / one.path)
        shelf.sweep()
    return going


def export_run(store: Path, run: str, folder: Path) -> list[Path]:
    """Take one run out, as files that open without secateur: weights (safetensors), record, plan.

    Args:
        store: The folder of results.
        run: The run's key, or enough of its beginning.
        folder: Where to; it appears whole or not at all.

    Returns:
        The files.

    Raises:
        DataError: No run has this key, or several do.
        StoreError: The run is not what was written, or the folder cannot be written.
        UsageError: The folder is there already.
    """
    if folder.exists():
        raise UsageError(
            f'expected a folder that is not there yet, got "{folder}": an export replaces nothing, name '
            "another"
        )
    record, shelf = find_run(store, run), Store(store)
    weights = Path(record.files["weights"]).name
    files = {name: shelf.read("runs", record.key, name) for name in (weights, RECORD)}
    files[PLAN] = to_toml(record.plan).encode()
    parent = folder.absolute().parent
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=parent) as beside:
            made = Path(beside) / "run"  # inside, so that others may read it where the umask lets them
            made.mkdir()
            write_files(made, files)
            made.rename(folder)
            sync(parent)
    except OSError as error:
        raise StoreError(
            f'cannot write "{folder}" ({error.strerror or error}): free the disk, or name a folder in one '
            "that exists and that you may write to; nothing was left there"
        ) from error
    return [folder / name for name in files]


def _opened(store: Path) -> Store:
    if not store.is_dir():
        raise StoreError(f'expected a store in "{store}", and there is no such folder: name it by --store')
    return Store(store)


def _sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def _unused(shelf: Store) -> list[Unused]:
    needed = _Needs(shelf).all() | _unfinished(shelf)
    entries = [(kind, key) for kind in KINDS for key in shelf.keys(kind) if kind != "runs"]
    folders = [shelf.path(*entry) for entry in entries if entry not in needed] + shelf.left()
    return [Unused(str(path.relative_to(shelf.root)), sum(_sizes(path))) for path in folders]


def _unfinished(shelf: Store) -> set[Entry]:
    """Checkpoints of steps that have no entry yet; the name of one begins with its step's key."""
    finished = set(shelf.keys("steps"))
    return {
        ("checkpoints", key) for key in shelf.keys("checkpoints") if key.partition(".")[0] not in finished
    }


class _Needs:
    """What the runs of a store need, and the audits of them."""

    def __init__(self, shelf: Store) -> None:
        self._shelf = shelf

    def all(self) -> set[Entry]:
        """Every entry that a run needs.

        Returns:
            Kinds and keys.

        Raises:
            StoreError: A run or an audit cannot be read.
        """
        needed, runs = set[Entry](), self._shelf.keys("runs")
        try:
            for key in runs:
                needed |= self._run(key)
            for key in self._shelf.keys("audits"):
                if json.loads(self._shelf.read("audits", key, FINDINGS))["run"] in runs:
                    needed |= self._audit(key) | {("audits", key)}
        except (StoreError, DataError) as error:
            raise StoreError(
                f"expected runs that can be read, to know what they need, got one that cannot: {error}"
            ) from error
        return needed

    def missing(self, kind: Kind, key: str) -> list[str]:
        """What a run or an audit needs and does not find, one sentence each."""
        try:
            needed = self._run(key) if kind == "runs" else self._audit(key) if kind == "audits" else ()
        except (StoreError, DataError) as error:
            return [str(error)]
        gone = sorted(entry for entry in needed if not self._shelf.path(*entry).is_dir())
        return [
            f'"{self._shelf.path(kind, key)}" needs "{self._shelf.path(*entry)}", which is not there: run '
            "its plan again, which makes it anew"
            for entry in gone
        ]

    def _run(self, key: str) -> set[Entry]:
        record = Record.from_json(self._shelf.read("runs", key, RECORD).decode())
        needed: set[Entry] = {("steps", reference["key"]) for reference in record.references}
        needed |= {_entry(path) for path in record.files.values()} - {("runs", key)}
        if "file" in record.split:  # the oldest runs kept no rows of their split
            needed.add(_entry(record.split["file"]))
        uses = self._shelf.uses("runs", key)
        if uses is not None:
            return needed | set(map(_entry, uses))
        told = json.loads(self._shelf.read("runs", key, RECORD))
        return needed.union(*(self._traced[_sort(step)] for step in told["steps"]), self._traced[""])

    def _audit(self, key: str) -> set[Entry]:
        uses = self._shelf.uses("audits", key)
        return self._of_banks if uses is None else set(map(_entry, uses))

    @cached_property
    def _traced(self) -> Mapping[str, set[Entry]]:
        """For runs of before they named their steps: trace to steps, "" to those that cannot be read."""
        found = defaultdict[str, set[Entry]](set)
        for key in self._shelf.keys("steps"):
            found[_sort(self._trace(key))].add(("steps", key))
        return found

    @cached_property
    def _of_banks(self) -> set[Entry]:
        """For audits of before they named their models: whatever a bank may have made."""
        from secateur.lab.plan import FIRST_REFERENCE_SEED  # waits for torch

        keys = self._shelf.keys
        steps = [key for key in keys("steps") if self._trace(key).get("seed", 0) >= FIRST_REFERENCE_SEED]
        said = {digest({"state": step, "split": split}) for step in steps for split in keys("splits")}
        found: set[Entry] = {("outputs", key) for key in keys("outputs") if key in said}
        return found | {("steps", key) for key in steps} | {("banks", key) for key in keys("banks")}

    def _trace(self, key: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self._shelf.read("steps", key, META))["trace"])
        except StoreError:
            return {}


def _entry(path: str) -> Entry:
    kind, key, *_ = path.split("/")
    return cast(Kind, kind), key


def _sort(trace: Mapping[str, Any]) -> str:
    """A trace without what is another each time that the step is taken."""
    return digest({name: value for name, value in trace.items() if name not in CLOCK}) if trace else ""
