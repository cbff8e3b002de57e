"""Requests: which rows a plan asks to forget. Each is drawn from the rows that are not held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from secateur import knobs
from secateur.errors import DataError, PlanError, UsageError, nearest

Rows = NDArray[np.int64]
Position = Annotated[int, Field(ge=0, lt=2**63)]


class Request(Protocol):
    """Chooses rows to forget."""

    def choose(self, y: Rows, free: Rows, seed: int) -> Rows:
        """Positions among ``free``, given all labels y [n] and the data's seed."""
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

    def choose(self, y: Rows, free: Rows, seed: int) -> Rows:
        """All free rows of these classes."""
        if absent := sorted(set(self.classes) - set(y.tolist())):
            raise DataError(
                f"expected classes to forget in 0..{int(y.max())}, got {absent[0]}: no training row has it"
            )
        return free[np.isin(y[free], self.classes)]


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

    def choose(self, y: Rows, free: Rows, seed: int) -> Rows:
        """A sample fixed by the data's seed."""
        count = self.count or round((self.share or 0.0) * len(free))
        if count > len(free):
            raise DataError(
                f"expected at most {len(free)} rows to forget, got {count}: the others are held out"
            )
        return np.sort(np.random.default_rng([seed, count]).choice(free, count, replace=False))


@dataclass(frozen=True, kw_only=True)
class ByRows:
    """Forget named rows.

    Attributes:
        rows: Their positions in the training data.
    """

    rows: tuple[Position, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise UsageError("rows = [] names none: name at least one row to forget")

    def __str__(self) -> str:
        return f"row {self.rows[0]}" if len(self.rows) == 1 else f"{len(self.rows)} named rows"

    def choose(self, y: Rows, free: Rows, seed: int) -> Rows:
        """The rows themselves; the split checks them."""
        return np.asarray(self.rows, dtype=np.int64)


_KINDS: dict[str, type[Any]] = {"class": ByClass, "random": AtRandom, "rows": ByRows}


def read_request(table: Any, where: str) -> Request:
    """A request from its table in a plan.

    Args:
        table: ``{ how = "class" | "random" | "rows", ... }``.
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
