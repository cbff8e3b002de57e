"""Named tensors as one vector of the coordinates that are not masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from secateur.errors import UsageError


class Flat:
    """The unmasked coordinates, in order of the names.

    Args:
        like: Name to a tensor of the shape, type and device of each.
        masks: Name to a boolean tensor, True = kept; a name without one is kept whole, a mask of another
            name is left out.

    Raises:
        UsageError: No coordinate is left, or a mask has another shape.
    """

    def __init__(self, like: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> None:
        self._like = dict(like)
        self.places: dict[str, Tensor] = {}
        for name, value in like.items():
            mask = (masks or {}).get(name)
            if mask is None:
                self.places[name] = torch.arange(value.numel(), device=value.device)
                continue
            if mask.shape != value.shape or mask.dtype != torch.bool:
                raise UsageError(
                    f'expected a boolean mask of shape {tuple(value.shape)} for "{name}", got {mask.dtype} '
                    f"of shape {tuple(mask.shape)}: it says of each weight whether it may move"
                )
            self.places[name] = mask.flatten().nonzero()[:, 0].to(value.device)
        self.device = next(iter(self.places.values())).device
        self.sizes = [len(place) for place in self.places.values()]
        if not sum(self.sizes):
            raise UsageError(
                "expected at least one unmasked parameter to update, got none: the solution would be empty; "
                "name more parameters, or prune less"
            )

    def __len__(self) -> int:
        return sum(self.sizes)

    def pack(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """One vector [m]; of stacked ones [..., *shape], vectors [..., m]."""
        return torch.cat([self._pick(name, vectors[name]) for name in self.places], -1)

    def _pick(self, name: str, value: Tensor) -> Tensor:
        place = self.places[name]
        flat = value.reshape(*value.shape[: value.ndim - self._like[name].ndim], -1)
        return flat if len(place) == flat.shape[-1] else flat[..., place]

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Name to tensors; what is masked is exactly +0.0."""
        found = {}
        for (name, place), part in zip(self.places.items(), torch.split(flat, self.sizes), strict=True):
            value = torch.zeros_like(self._like[name], memory_format=torch.contiguous_format)
            found[name] = value.flatten().index_put((place,), part).view_as(value)
        return found

    def cut(self, start: int, stop: int) -> Iterator[tuple[str, Tensor]]:
        """The names and places of a stretch of coordinates.

        Args:
            start: First coordinate.
            stop: One past the last.

        Yields:
            Name, and places in its flattened tensor.
        """
        before = 0
        for name, place in self.places.items():
            part = place[max(0, start - before) : max(0, stop - before)]
            before += len(place)
            if len(part):
                yield name, part


def blocks(count: int, size: int) -> Sequence[tuple[int, int]]:
    """Stretches of at most ``size``."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]
