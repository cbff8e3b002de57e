"""States to bytes and back. Safetensors only: nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.lab.store import digest
from secateur.network import check_fits
from secateur.record import StepTrace, plain
from secateur.run import Run
from secateur.state import Mark, State

STATE, META = "state.safetensors", "meta.json"


def freeze(state: State, trace: StepTrace) -> dict[str, bytes]:
    """A state and how it came about, as the files of a store entry."""
    # all buffers: those that are not persistent stand in no state dict, and training goes on with them
    held = {**state.model.state_dict(), **dict(state.model.named_buffers())}
    tensors = {f"model/{name}": value for name, value in held.items()}
    tensors |= {f"mask/{name}": mask for name, mask in state.masks.items()}
    for name, mark in state.marks.items():
        tensors |= {f"mark/{name}/weights/{key}": value for key, value in mark.weights.items()}
        tensors |= {f"mark/{name}/buffers/{key}": value for key, value in mark.buffers.items()}
    meta = {
        "trace": plain(trace),
        "masks": digest(_bytes(state.masks)) if state.masks else "dense",
        "depth": state.depth,
        "weights_saw": sorted(state.weights_saw),
        "masks_saw": sorted(state.masks_saw),
        "marks": {
            name: {"epoch": mark.epoch, "saw": sorted(mark.saw), "total": mark.total}
            for name, mark in state.marks.items()
        },
    }
    return {STATE: _bytes(tensors), META: json.dumps(meta, indent=1).encode()}


def thaw(start: State, tensors: bytes, meta: Mapping[str, Any], run: Run) -> State:
    """The state that was frozen.

    Args:
        start: A state over the same data and architecture.
        tensors: The bytes of its tensors.
        meta: The rest.
        run: Where to put it.

    Returns:
        The state, bit for bit.
    """
    found = {name: value.to(run.where) for name, value in safetensors.torch.load(tensors).items()}

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}

    state = start.fresh(run)
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


def pack_weights(model: nn.Module, about: Mapping[str, Any]) -> bytes:
    """A model's weights and buffers as they load into the plain architecture.

    Args:
        model: Its state dict is packed.
        about: JSON-like; goes under one metadata key, since with more the bytes would vary.

    Returns:
        The bytes of a safetensors file.
    """
    return _bytes(model.state_dict(), {"secateur": json.dumps(about, sort_keys=True)})


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a safetensors file into a model, strictly.

    Args:
        model: Changed in place.
        path: The file.

    Returns:
        The model.

    Raises:
        DataError: No such file, no safetensors, cut short, or names and shapes that differ.
    """
    try:
        weights = safetensors.torch.load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f'expected weights as safetensors in "{path}", got something unreadable ({reason}): correct the '
            "path, or copy the file again"
        ) from error
    check_fits(weights, model)
    model.load_state_dict(weights)
    return model


def _bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    # a copy each: safetensors refuses tensors that share memory (tied weights, slices of one mask)
    plain_memory = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    packed: bytes = safetensors.torch.save(plain_memory, metadata)
    return packed
