"""Damage that is met while a plan runs: the entry goes, is made anew, and that is told."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from secateur.errors import DamagedEntry
from secateur.lab.store import Kind, Store

Given = ParamSpec("Given")
Got = TypeVar("Got")
_log = logging.getLogger("secateur.store")


def mending(work: Callable[Given, Got]) -> Callable[Given, Got]:
    """Let work begin again without a damaged entry that it met.

    Args:
        work: Finds in the store what it had finished, and makes the rest.

    Returns:
        The same. It logs one line for each entry that it removed, and raises where one is damaged twice.
    """

    @functools.wraps(work)
    def whole(*given: Given.args, **named: Given.kwargs) -> Got:
        met: set[Path] = set()
        while True:
            try:
                return work(*given, **named)
            except DamagedEntry as error:
                if error.place in met:
                    raise
                met.add(error.place)
                remove(error)

    return whole


def remove(error: DamagedEntry) -> None:
    """Remove an entry that is still damaged, and say so."""
    place = error.place
    store, kind = Store(place.parent.parent), cast(Kind, place.parent.name)
    with store.alone_with(kind, [place.name], "mends an entry"):
        if store.faults(kind, place.name):  # else another process was faster
            store.drop(place)
            _log.warning("%s: the entry was removed, and what it held is made anew", error.fault)
