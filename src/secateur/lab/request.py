"""Requests: which rows a plan asks to forget. Each is drawn from the rows that are not held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from secateur import knobs
from secateur.errors import DataError, PlanError, UsageError, nearest

Rows = NDArray[np.int64]


class Known(NamedTuple):
    """What is known of the training rows.

    Attributes:
        y: [n], the classes.
        ids: [n], stable ids.
        columns: Name to values [n].
    """

    y: Rows
    ids: Rows
    columns: Mapping[str, NDArray[Any]]


Position = Annotated[int, Field(ge=0, lt=2**63)]


class Request(Protocol):
    """Chooses rows to forget."""

    def choose(self, known: Known, free: Rows, seed: int) -> Rows:
        """Ids of rows, given what is known of all, which positions are free, and the data's seed."""
        ...


@dataclass(frozen=True, kw_only=True)
class ByClass:
    """Forget every row of some classes.

    Attributes:
        classes: Their numbers.
    """

    classes: tuple[Position, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise UsageError("classes = [] names none: name at least one class to forget")
        if twice := [c for c in self.classes if self.classes.count(c) > 1]:
            raise UsageError(
                f"class {twice[0]} is named {self.classes.count(twice[0])} times: name each class once"
            )

    def __str__(self) -> str:
        return ("class " if len(self.classes) == 1 else "classes ") + ", ".join(map(str, self.classes))

    def choose(self, known: Known, free: Rows, seed: int) -> Rows:
        """All free rows of these classes."""
        if absent := sorted(set(self.classes) - set(known.y.tolist())):
            raise DataError(
                f"expected classes that training rows have, got {absent[0]}, which none has: their labels "
                f"lie in {int(known.y.min())}..{int(known.y.max())}"
            )
        rows: Rows = known.ids[free[np.isin(known.y[free], self.classes)]]
        return rows


@dataclass(frozen=True, kw_only=True)
class AtRandom:
    """Forget rows drawn uniformly, without looking at them.

    Attributes:
        share: Share of the rows that are not held out; or
        count: their number.
    """

    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    count: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.count is None):
            raise UsageError('expected either "share" or "count" of random rows to forget: name one of them')

    def __str__(self) -> str:
        return f"random {100 * self.share:.4g} %" if self.share is not None else f"{self.count} random rows"

    def choose(self, known: Known, free: Rows, seed: int) -> Rows:
        """A sample fixed by the data's seed."""
        count = self.count or round((self.share or 0.0) * len(free))
        if not count:
            raise DataError(
                f"expected a share of {len(free)} rows that comes to at least one, got {self.share}: take a "
                "larger share, or a count"
            )
        if count > len(free):
            raise DataError(
                f"expected at most {len(free)} rows to forget, got {count}: the others are held out"
            )
        drawn = np.random.default_rng([seed, count]).choice(free, count, replace=False)
        rows: Rows = known.ids[np.sort(drawn)]
        return rows


@dataclass(frozen=True, kw_only=True)
class ByRows:
    """Forget named rows.

    Attributes:
        rows: Their ids: positions in the whole training data.
    """

    rows: tuple[Position, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise UsageError("rows = [] names none: name at least one row to forget")

    def __str__(self) -> str:
        return f"row {self.rows[0]}" if len(self.rows) == 1 else f"{len(self.rows)} named rows"

    def choose(self, known: Known, free: Rows, seed: int) -> Rows:
        """The rows themselves; the split checks them."""
        return np.asarray(self.rows, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class ByFile:
    """Forget the rows that a file names.

    Attributes:
        path: A text file with one row id a line; what follows a # is left out.
    """

    path: str

    def __str__(self) -> str:
        return f"rows of {Path(self.path).name}"

    def choose(self, known: Known, free: Rows, seed: int) -> Rows:
        """The rows of the file, as it is now."""
        try:
            lines = Path(self.path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise DataError(
                f'expected row ids in "{self.path}", one a line, and it cannot be read ({reason}): correct '
                "the path in data.forget"
            ) from error
        found = []
        for number, line in enumerate(lines, start=1):
            if word := line.partition("#")[0].strip():
                if not (word.isascii() and word.isdecimal() and len(word) < 19):
                    raise DataError(
                        f'expected a row id in line {number} of "{self.path}", got {word[:40]!r}: an id is '
                        "the position of a row in the training data"
                    )
                found.append(int(word))
        if not found:
            raise DataError(f'expected row ids in "{self.path}", one a line, got none: name at least one row')
        return np.asarray(found, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class ByColumn:
    """Forget every row in which a column has a value: all of one subject, of one source.

    Attributes:
        column: Its name.
        equals: The value.
    """

    column: str
    equals: int | str | bool

    def __str__(self) -> str:
        return f"{self.column} = {self.equals}"

    def choose(self, known: Known, free: Rows, seed: int) -> Rows:
        """All free rows with this value."""
        if self.column not in known.columns:
            there = nearest(self.column, known.columns) if known.columns else "and the data has no columns"
            raise DataError(
                f'expected a column "{self.column}" to choose rows by: none is called so, {there}'
            )
        values = known.columns[self.column]
        # a number is not the word that spells it: comparing them would quietly find no row
        if np.asarray(self.equals).dtype.kind != values.dtype.kind.replace("u", "i"):
            raise DataError(
                f'expected a value like those of the column "{self.column}" ({values[0].item()!r} in the '
                f"first row), got {self.equals!r}: write it as the column has it"
            )
        found = free[values[free] == self.equals]
        if not len(found):
            raise DataError(
                f"expected rows with {self.column} = {self.equals!r}, got none among the {len(free)} that "
                "are not held out: correct the value"
            )
        rows: Rows = known.ids[found]
        return rows


_KINDS: dict[str, type[Any]] = {
    "class": ByClass,
    "random": AtRandom,
    "rows": ByRows,
    "file": ByFile,
    "column": ByColumn,
}


def read_request(table: Any, where: str) -> Request:
    """A request from its table in a plan.

    Args:
        table: ``{ how = "class" | "random" | "rows" | "file" | "column", ... }``.
        where: The place in the plan.

    Returns:
        The request.

    Raises:
        PlanError: Anything in it is wrong.
    """
    if not isinstance(table, dict):
        raise PlanError([
            f'{where} should be a table such as {{ how = "class", classes = [3] }}, got {table!r}'
        ])
    how = table.get("how")
    if not isinstance(how, str) or how not in _KINDS:
        raise PlanError([
            f"{where}.how should name a way to choose rows, got {how!r}: {nearest(str(how), _KINDS)}"
        ])
    request: Request = knobs.build(
        _KINDS[how], {key: value for key, value in table.items() if key != "how"}, where=where
    )
    return request
