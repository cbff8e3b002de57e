"""Recompute: keep only what enters each block of a network, and compute the rest again on the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from secateur.errors import UsageError


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Activation checkpointing (Chen et al., arXiv 1604.06174) while this lasts: the same bits, less memory.

    A block is an entry of an outermost ``nn.Sequential`` or ``nn.ModuleList`` that has modules of its own.
    Running statistics move once for each pass, not again where it is repeated.

    Args:
        model: Its blocks are called another way, and as before afterwards.

    Yields:
        Nothing.

    Raises:
        UsageError: It has no block.
    """
    blocks = list(_blocks(model))
    if not blocks:
        raise UsageError(
            "expected a network made of blocks (entries of nn.Sequential or nn.ModuleList that have modules "
            f"of their own) to recompute them, got {type(model).__name__} without any: set recompute = false"
        )
    for block in blocks:
        again = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=again)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the instance's; the class's shows again


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            entries = [entry for entry in child if any(True for _ in entry.children())]
            if entries:
                yield from entries
                continue
        yield from _blocks(child)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _still(block)


@contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """Batch norm whose running statistics move as copies."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    held = [dict(module.named_buffers(recurse=False)) for module in norms]
    for module, buffers in zip(norms, held, strict=True):
        for name, buffer in buffers.items():
            setattr(module, name, buffer.clone())
    try:
        yield
    finally:  # torch leaves by an exception as soon as it has what it needs
        for module, buffers in zip(norms, held, strict=True):
            for name, buffer in buffers.items():
                setattr(module, name, buffer)
