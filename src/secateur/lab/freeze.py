"""States to bytes and back. Safetensors only: nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from secateur.errors import DataError
from secateur.lab.store import digest
from secateur.network import check_fits
from secateur.packing import from_bytes, pack, to_bytes, unpack
from secateur.record import StepTrace, plain
from secateur.run import Run
from secateur.state import State

STATE, META = "state.safetensors", "meta.json"


def freeze(state: State, trace: StepTrace) -> dict[str, bytes]:
    """A state and how it came about, as the files of a store entry."""
    tensors, about = pack(state)
    masks = digest(to_bytes(state.masks)) if state.masks else "dense"
    meta = {"trace": plain(trace), "masks": masks, **about}
    return {STATE: to_bytes(tensors), META: json.dumps(meta, indent=1).encode()}


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
    return unpack(start.fresh(run), from_bytes(tensors, run.where), meta)


def pack_weights(model: nn.Module, about: Mapping[str, Any]) -> bytes:
    """A model's weights and buffers as they load into the plain architecture.

    Args:
        model: Its state dict is packed.
        about: JSON-like; goes under one metadata key, since with more the bytes would vary.

    Returns:
        The bytes of a safetensors file.
    """
    return to_bytes(model.state_dict(), {"secateur": json.dumps(about, sort_keys=True)})


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
