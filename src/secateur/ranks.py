"""Ranks: processes that compute one thing together, as torchrun starts them, and what each of them does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from secateur.errors import UsageError

_PATIENCE = timedelta(days=1)  # rank 0 judges and writes while the others wait


def world() -> int:
    """How many processes compute together; 1 where this is the only one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if world() > 1 else 0


def own(rows: int) -> slice:
    """This process's part of some rows that all processes have: even parts, in order of rank."""
    here, parts = rank(), world()
    return slice(rows * here // parts, rows * (here + 1) // parts)


def add_up(tensors: Iterable[Tensor]) -> None:
    """Sum tensors over all processes, in place; each must hand over the same shapes in the same order.

    Args:
        tensors: Of any floating or integer type, on the device of the process group.
    """
    if world() == 1:
        return
    for tensor in tensors:
        whole = tensor.contiguous()  # others than these cannot be sent
        dist.all_reduce(whole)
        if whole is not tensor:
            tensor.copy_(whole)


def take_over(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of rank 0, in place."""
    if world() == 1:
        return
    for tensor in tensors:
        whole = tensor.contiguous()
        dist.broadcast(whole, src=0)
        if whole is not tensor:
            tensor.copy_(whole)


def gathered(tensor: Tensor) -> list[Tensor]:
    """The tensors of all processes, by rank; all of one shape, on the CPU.

    Args:
        tensor: This process's.

    Returns:
        One for each process.
    """
    if world() == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(world())]
    dist.all_gather(found, tensor, group=_talk())
    return found


def told(text: str) -> str:
    """What rank 0 says: its text, in every process, once all have come here."""
    if world() == 1:
        return text
    data = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
    size = torch.tensor(len(data))
    dist.broadcast(size, src=0, group=_talk())
    if rank():
        data = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, src=0, group=_talk())
    return bytes(data.tolist()).decode().strip()


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, where it started this one; leave them at the end.

    Yields:
        Nothing.

    Raises:
        UsageError: The variables that torchrun sets are not what it sets, or there are fewer GPUs than
            processes on this machine.
    """
    asked = os.environ.get("WORLD_SIZE", "1")
    if asked == "1" or world() > 1:
        yield
        return
    gpus, local = torch.cuda.device_count(), os.environ.get("LOCAL_RANK", "0")
    try:
        if gpus:
            torch.cuda.set_device(int(local))
        dist.init_process_group("nccl" if gpus else "gloo")
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"expected to join {asked} processes, but could not ({str(error).splitlines()[0]}): start them "
            "by torchrun --nproc-per-node N, with no more of them on a machine than it has GPUs"
        ) from error
    try:
        _talks.append(dist.new_group(backend="gloo", timeout=_PATIENCE))
        yield
    finally:
        _talks.clear()
        dist.destroy_process_group()


_talks: list[dist.ProcessGroup] = []


def _talk() -> dist.ProcessGroup | None:
    """The group for what is said on the CPU; the main one may be of GPUs, and be impatient."""
    return _talks[-1] if _talks else None
