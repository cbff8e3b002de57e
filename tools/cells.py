"""A study cell by cell: what was stopped goes on behind the last cell that was finished."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Cell = tuple[Any, ...]
Lines = list[list[Any]]


def by_cell(
    part: Path, about: Any, cells: Iterable[Cell], make: Callable[..., Iterable[Sequence[Any]]]
) -> Iterator[Lines]:
    """The lines of each cell, made now or found in a file of what an earlier, stopped call has made.

    Args:
        part: That file; it is gone once the last cell has been handed over.
        about: What the lines depend on beside their cell, as JSON-like values. Those made under another
            value, or by another state of the tool's source, are made again.
        cells: Arguments of ``make``.
        make: Gives the lines of a cell.

    Yields:
        The lines of the next cell.
    """
    source = Path(sys.modules[make.__module__].__file__ or "").read_bytes()
    mark = json.loads(json.dumps([about, hashlib.sha256(source).hexdigest()]))
    done = {tuple(one["cell"]): one for one in _whole_lines(part) if one["about"] == mark}
    # without what is of no use any more, and without a line that was cut off
    part.write_text("".join(json.dumps(one) + "\n" for one in done.values()))
    for cell in cells:
        if cell not in done:
            lines = [list(line) for line in make(*cell)]
            done[cell] = {"about": mark, "cell": cell, "lines": lines}
            with part.open("a") as file:
                file.write(json.dumps(done[cell]) + "\n")
        yield done[cell]["lines"]
    part.unlink()


def _whole_lines(part: Path) -> Iterator[dict[str, Any]]:
    text = part.read_text() if part.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
