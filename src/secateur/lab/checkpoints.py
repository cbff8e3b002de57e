"""Checkpoints: trainings kept in their midst, every so often and when the process is asked to end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from secateur.errors import DamagedEntry, StoreError
from secateur.lab.ending import asked, leave, training
from secateur.lab.store import Kind, Store
from secateur.ranks import rank, told, world

EVERY = 600.0  # seconds
_KIND: Kind = "checkpoints"
_CLOCK = "clock.json"
_ASK = 32  # updates between questions where several processes must agree on the answer
_log = logging.getLogger("secateur.store")


class Keeper:
    """Keeps the trainings of one step in a store, as ``secateur.run.Checkpoints`` says.

    An entry's name is the step's key, the number of the training in the step, and a number that grows.

    Args:
        store: Where.
        step: Its key.
        every: Seconds between checkpoints.

    Attributes:
        seconds: That the step had taken by the checkpoint from which it goes on.
    """

    def __init__(self, store: Store, step: str, every: float) -> None:
        self.seconds = 0.0
        self._store, self._step, self._every = store, step, every
        self._number, self._version = -1, 0
        self._began = self._last = time.monotonic()
        self._kept = False

    def begin(self) -> Mapping[str, bytes] | None:
        """The latest checkpoint of the next training."""
        self._number += 1
        self._kept = False
        training.set()
        name, files = "", dict[str, bytes]()
        with self._store.first() as first:
            if first:
                name, files = self._newest()
        # one process looks: another may see the disk of a moment ago, and would begin elsewhere
        if not (name := told(name)):
            return None
        files = files or self._read(name)
        self._version = int(name.rpartition(".")[2])
        self._kept = True
        self.seconds = json.loads(files.pop(_CLOCK))["seconds"]
        self._began = self._last = time.monotonic()
        return files

    def due(self, done: int) -> bool:
        """Whether the time has come, or the process is asked to end."""
        now = asked.is_set() or time.monotonic() > self._last + self._every
        if world() == 1:
            return now
        return done % _ASK == 0 and told("now" if now else "later") == "now"

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep a training; ends the process where it is asked to.

        Args:
            files: From which it goes on.
        """
        spent = self.seconds + time.monotonic() - self._began
        clock = json.dumps({"seconds": spent}).encode()
        before = self._names(f"{self._step}.{self._number}.")
        self._version += 1
        name = f"{self._step}.{self._number}.{self._version:06}"
        self._store.put(_KIND, name, {**files, _CLOCK: clock})
        self._drop(before)
        self._kept = True
        self._last = time.monotonic()
        if told("end" if asked.is_set() else "go on") == "end":
            leave()

    def end(self, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Keep the end of a training that was kept before: the step may go on for long.

        Args:
            files: Makes them.
        """
        if told("keep" if self._kept or asked.is_set() else "go on") == "keep":
            self.keep(files())
        training.clear()

    def finished(self) -> None:
        """The step stands in the store: what was kept of it is not needed any more."""
        self._drop(self._names(f"{self._step}."))
        if told("end" if asked.is_set() else "go on") == "end":
            leave()

    def closed(self) -> None:
        """The step has ended, this way or that."""
        training.clear()

    def _newest(self) -> tuple[str, dict[str, bytes]]:
        """The newest checkpoint of this training that is whole, by name; empty where there is none."""
        for name in reversed(self._names(f"{self._step}.{self._number}.")):
            try:
                return name, self._read(name)
            except DamagedEntry as error:
                self._drop([name])
                _log.warning("%s: the entry was removed, and what it held is made anew", error.fault)
        return "", {}

    def _read(self, name: str) -> dict[str, bytes]:
        return {file: self._store.read(_KIND, name, file) for file in self._store.names(_KIND, name)}

    def _names(self, beginning: str) -> list[str]:
        return [name for name in self._store.keys(_KIND) if name.startswith(beginning)]

    def _drop(self, names: list[str]) -> None:
        if rank() == 0:
            for name in names:
                with suppress(StoreError):  # one that stays takes room, and misleads nobody
                    self._store.drop(self._store.path(_KIND, name))
