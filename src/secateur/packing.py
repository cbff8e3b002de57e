"""Packing: a state as named tensors and plain values, and back, bit for bit. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from secateur.state import Mark, State


def pack(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of a state but its rows: model with every buffer, masks, marks, and what has shaped them.

    Args:
        state: Is not changed; the tensors are its own.

    Returns:
        Tensors by name, and the rest as JSON-like values.
    """
    # all buffers: those that are not persistent stand in no state dict, and training goes on with them
    held = {**state.model.state_dict(), **dict(state.model.named_buffers())}
    tensors = {f"model/{name}": value for name, value in held.items()}
    tensors |= {f"mask/{name}": mask for name, mask in state.masks.items()}
    for name, mark in state.marks.items():
        tensors |= {f"mark/{name}/weights/{key}": value for key, value in mark.weights.items()}
        tensors |= {f"mark/{name}/buffers/{key}": value for key, value in mark.buffers.items()}
    return tensors, {
        "depth": state.depth,
        "weights_saw": sorted(state.weights_saw),
        "masks_saw": sorted(state.masks_saw),
        "marks": {
            name: {"epoch": mark.epoch, "saw": sorted(mark.saw), "total": mark.total}
            for name, mark in state.marks.items()
        },
    }


@torch.no_grad()
def unpack(state: State, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> State:
    """A state as it was packed.

    Args:
        state: Over the same data and architecture; its model is overwritten in place.
        tensors: As ``pack`` gave them, on the state's device.
        meta: The rest.

    Returns:
        The state.
    """

    def under(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
        }

    held = under("model/")
    state.model.load_state_dict({name: held[name] for name in state.model.state_dict()})
    for name, buffer in state.model.named_buffers():
        buffer.copy_(held[name])
    marks = {
        name: Mark(
            under(f"mark/{name}/weights/"),
            under(f"mark/{name}/buffers/"),
            told["epoch"],
            frozenset(told["saw"]),
            told.get("total"),
        )
        for name, told in meta["marks"].items()
    }
    return replace(
        state,
        masks=under("mask/"),
        marks=marks,
        depth=meta["depth"],
        weights_saw=frozenset(meta["weights_saw"]),
        masks_saw=frozenset(meta["masks_saw"]),
    )


def to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as a safetensors file."""
    # a copy each: safetensors refuses tensors that share memory (tied weights, slices of one mask)
    plain_memory = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    packed: bytes = safetensors.torch.save(plain_memory, metadata)
    return packed


def from_bytes(data: bytes, where: torch.device) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on a device."""
    return {name: value.to(where) for name, value in safetensors.torch.load(data).items()}
