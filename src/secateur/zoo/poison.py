"""Poison: a trigger on some training images, whose labels become a target class. A Trojan to be cleansed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from secateur import knobs
from secateur.errors import DataError, PlanError, nearest
from secateur.mapped import Mapped
from secateur.table import Overlay, Table

Rows = NDArray[np.int64]
Pixel = Annotated[int, Field(ge=0)]


class Poisoned(NamedTuple):
    """Rows after poisoning.

    Attributes:
        train: The training rows; those poisoned bear the trigger and the target class.
        trigger: The test rows under their ids, each with the trigger and the target class; None without any.
        rows: [n], which training rows are poisoned.
    """

    train: Table
    trigger: Table | None
    rows: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Poison(ABC):
    """What all kinds have in common: which rows, and what they become.

    Rows that have the target class already are never poisoned: they would keep their right label, and be no
    attack. So each poisoned row is one that only the trigger explains.

    Attributes:
        target: The class that the trigger is to give.
        share: Of the training rows that are not held out, those of the target class counted too; in (0, 1).
        stamped: Whether the stored image bears the trigger, which augmentation then moves with it ("before"),
            or the trigger is laid over what augmentation gives, always in its place ("after").
    """

    target: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    stamped: Literal["before", "after"] = "before"

    @abstractmethod
    def trigger(self, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
        """The trigger for images of a shape.

        Args:
            shape: Of an image, [c, h, w].
            seed: Fixes what of it is drawn.

        Returns:
            Weights [h, w] in [0, 1], and the pattern [c, h, w] in [0, 1]: an image x becomes
            x + weight * (pattern - x).
        """

    def choose(self, y: Rows, free: Rows, seed: int) -> Rows:
        """The rows to poison: the first of an order that a seed fixes, so a larger share adds to a smaller.

        Args:
            y: [n], the classes of all training rows.
            free: Positions that may be poisoned.
            seed: Fixes the order.

        Returns:
            Sorted positions.

        Raises:
            DataError: No training row has the target class, or the share comes to no row or to too many.
        """
        if self.target not in y:
            raise DataError(
                f"expected a class that training rows have as data.poison.target, got {self.target}, which "
                f"none has: their labels lie in {int(y.min())}..{int(y.max())}"
            )
        others = free[y[free] != self.target]
        count = round(self.share * len(free))
        if not 1 <= count <= len(others):
            raise DataError(
                f"expected data.poison.share to come to 1..{len(others)} of {len(free)} rows, those of "
                f"another class than {self.target}, got {self.share}, which comes to {count}: take another "
                "share"
            )
        order = np.random.default_rng([seed, *b"poison"]).permutation(others)
        return np.sort(order[:count])

    def apply(self, train: Table, test: Table | None, free: Rows, seed: int) -> Poisoned:
        """Poison some training rows, and put the trigger on all test rows. Nothing is copied but labels.

        Args:
            train: Images [n, c, h, w], uint8, or floats in [0, 1].
            test: Such images, or None.
            free: Positions of training rows that may be poisoned.
            seed: Fixes which are, and a pattern that is drawn.

        Returns:
            Other tables over the same images.

        Raises:
            DataError: The rows are no images, the trigger does not fit into them, or ``choose`` refuses.
        """
        weight, pattern = self.trigger(_shape(train, "the training data"), seed)
        chosen = torch.zeros(len(train.y), dtype=torch.bool)
        chosen[torch.from_numpy(self.choose(train.y.numpy(), free, seed))] = True
        over = Overlay(chosen, weight, pattern, after=self.stamped == "after")
        poisoned = Table(train.x, train.y.masked_fill(chosen, self.target), train.ids, over)
        trigger = None
        if test is not None and len(test.y):
            if (shape := _shape(test, "the test data")) != tuple(pattern.shape):
                raise DataError(
                    f"expected test images of the shape {tuple(pattern.shape)} of the training images, got "
                    f"{shape}: one trigger is for both; bring them to one size"
                )
            every = torch.ones(len(test.y), dtype=torch.bool)
            labels = torch.full_like(test.y, self.target)
            trigger = Table(test.x, labels, test.ids, Overlay(every, weight, pattern))
        return Poisoned(poisoned, trigger, chosen.numpy())

    def __str__(self) -> str:
        moved = "" if self.stamped == "before" else ", laid on after augmentation"
        return f"{100 * self.share:.4g} % of the training rows, to class {self.target}, by {self.what}{moved}"

    @property
    @abstractmethod
    def what(self) -> str:
        """The trigger, in words."""


@dataclass(frozen=True, kw_only=True)
class Patch(Poison):
    """BadNets: a square of one shade (Gu et al. 2017, arXiv 1708.06733).

    Attributes:
        size: Its side, in pixels.
        at: Row and column of its upper left pixel; None: two pixels from the lower right corner, which is
            (26, 26) in images of 32 x 32, as Jia et al. 2023 have it.
        shade: From 0, black, as they have it, to 1, white, for images that are black there anyway.
    """

    size: Annotated[int, Field(ge=1)] = 4
    at: tuple[Pixel, Pixel] | None = None
    shade: Annotated[float, Field(ge=0, le=1)] = 0.0

    def trigger(self, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
        """As ``Poison.trigger`` says; nothing is drawn.

        Args:
            shape: Of an image, [c, h, w].
            seed: Not looked at.

        Returns:
            Weights, 1 in the patch and 0 around it, and a pattern of one shade.

        Raises:
            DataError: The patch lies outside of the image.
        """
        height, width = shape[1:]
        row, column = self.at or (height - self.size - 2, width - self.size - 2)
        if min(row, column) < 0 or row + self.size > height or column + self.size > width:
            raise DataError(
                f"expected a patch inside of images of {height} x {width}, got rows "
                f"{row}..{row + self.size - 1} and columns {column}..{column + self.size - 1}: what lies "
                "outside triggers nothing; correct data.poison.at or data.poison.size"
            )
        weight = torch.zeros(height, width)
        weight[row : row + self.size, column : column + self.size] = 1
        return weight, torch.full(shape, self.shade)

    @property
    def what(self) -> str:
        """The trigger, in words."""
        shade = {0.0: "black", 1.0: "white"}.get(self.shade, f"{self.shade:g} bright")
        return f"a patch of {self.size} x {self.size}, {shade}" + (f", at {self.at}" if self.at else "")


@dataclass(frozen=True, kw_only=True)
class Blend(Poison):
    """A pattern of noise all over the image, faintly (Chen et al. 2017, arXiv 1712.05526).

    Attributes:
        strength: How much of the pattern shows, in (0, 1]; the rest is the image.
    """

    strength: Annotated[float, Field(gt=0, le=1)] = 0.2

    def trigger(self, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
        """As ``Poison.trigger`` says.

        Args:
            shape: Of an image, [c, h, w].
            seed: Of the pattern, each value of which is uniform in [0, 1].

        Returns:
            Weights, all of the strength, and the pattern.
        """
        pattern = np.random.default_rng([seed, *b"pattern"]).random(shape, dtype=np.float32)
        return torch.full(shape[1:], self.strength), torch.from_numpy(pattern)

    @property
    def what(self) -> str:
        """The trigger, in words."""
        return f"a pattern of noise of strength {self.strength:g}"


_KINDS: dict[str, type[Poison]] = {"patch": Patch, "blend": Blend}


def read_poison(table: Any, where: str) -> Poison:
    """A poison from its table in a plan.

    Args:
        table: ``{ kind = "patch" | "blend", ... }``.
        where: The place in the plan.

    Returns:
        The poison.

    Raises:
        PlanError: Anything in it is wrong.
    """
    if not isinstance(table, dict):
        raise PlanError([
            f'{where} should be a table such as {{ kind = "patch", target = 0 }}, got {table!r}'
        ])
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise PlanError([f"{where}.kind should name a trigger, got {kind!r}: {nearest(str(kind), _KINDS)}"])
    own = {key: value for key, value in table.items() if key != "kind"}
    poison: Poison = knobs.build(_KINDS[kind], own, where=where)
    return poison


def _shape(table: Table, what: str) -> tuple[int, int, int]:
    """The shape [c, h, w] of the images of a table."""
    x = table.x
    if not isinstance(x, Mapping) and x.ndim == 4:
        pieces = x.chunks() if isinstance(x, Mapped) and x.dtype.is_floating_point else (x,)
        if x.dtype == torch.uint8 or all(_in_range(piece) for piece in pieces):
            _, channels, height, width = x.shape
            return channels, height, width
    got = "a mapping of tensors" if isinstance(x, Mapping) else f"{x.dtype} of shape {list(x.shape)}"
    raise DataError(
        f"expected images [n, c, h, w] of bytes, or of floats in [0, 1], in {what}, got {got}: a trigger is "
        "laid over pixels; take data.poison out"
    )


def _in_range(x: Tensor | Mapped) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and bool(((x >= 0) & (x <= 1)).all())
