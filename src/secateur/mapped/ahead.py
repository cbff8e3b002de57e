"""Reading ahead: rows that are asked for next are read beside the work, by a thread or by processes."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secateur.errors import DataError, told
from secateur.mapped.sources import Drawn, Source

AHEAD = 2  # parts that lie ready while one is used


def read_ahead(
    source: Source, parts: Sequence[Tensor], *, workers: int, device: torch.device, what: str
) -> Iterator[Drawn]:
    """Rows part by part; from the second part on, the next ones are read while one is used.

    The first is read at once: whoever wants no more starts no thread and no process.

    Args:
        source: Where the rows lie.
        parts: Positions [b] of each part, on the CPU.
        workers: Processes that read; 0: a thread of this one.
        device: For a GPU, rows lie in pinned memory.
        what: What errors call the rows.

    Yields:
        The rows of each part, on the CPU.

    Raises:
        DataError: Rows cannot be read, or a process died.
    """
    pin = device.type == "cuda"
    yield from (_pinned(source.take(part)) if pin else source.take(part) for part in parts[:1])
    if len(parts) < 2:
        return
    made: SimpleQueue[Drawn | BaseException] = SimpleQueue()
    room, over = threading.Semaphore(AHEAD), threading.Event()

    def fill() -> None:
        try:
            with torch.cuda.device(device) if pin else contextlib.nullcontext():
                for rows in _rest(source, parts[1:], workers, what):
                    made.put(_pinned(rows) if pin else rows)
                    room.acquire()
                    if over.is_set():
                        return
        except BaseException as error:
            made.put(error)

    # beside the main thread torch sets no signal handler, which would raise anywhere when a process dies
    thread = threading.Thread(target=fill, name="rows", daemon=True)
    thread.start()
    try:
        for _ in parts[1:]:
            got = made.get()
            if isinstance(got, BaseException):
                raise got
            room.release()
            yield got
    finally:
        over.set()
        room.release()
        thread.join()


def _rest(source: Source, parts: Sequence[Tensor], workers: int, what: str) -> Iterator[Drawn]:
    if not workers:
        yield from map(source.take, parts)
        return
    loader: DataLoader[Drawn | DataError] = DataLoader(
        _Asked(source),
        sampler=cast(Any, parts),
        batch_size=None,
        num_workers=min(workers, len(parts)),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # none of torch's global chance is used up
        # a fork shares the rows, where another start would send a copy of them to each process
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )
    try:
        for got in loader:
            if isinstance(got, DataError):
                raise got
            yield got
    except RuntimeError as error:
        raise DataError(
            f"expected {loader.num_workers} processes to read {what}, but one of them died "
            f"({told(error)}): it may have run out of memory, or out of shared memory; take fewer workers, "
            "or workers = 0"
        ) from error


def _pinned(rows: Drawn) -> Drawn:
    return rows._replace(x=rows.x.pin_memory())


def copy_ahead(xs: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Rows on a GPU: each part is copied on a stream of its own while the one before it is used.

    Args:
        xs: Parts in pinned memory.
        device: The GPU.

    Yields:
        Each part, there for the stream that is now the current one.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    here = torch.cuda.current_stream(device)
    ready: list[tuple[Tensor, torch.cuda.Event]] = []

    def hand() -> Tensor:
        moved, copied = ready.pop(0)
        here.wait_event(copied)
        moved.record_stream(here)
        return moved

    for x in xs:
        with torch.cuda.stream(stream):
            moved = x.to(device, non_blocking=True)
            ready.append((moved, stream.record_event()))
        if len(ready) > 1:
            yield hand()
    while ready:
        yield hand()


class _Asked(Dataset[Drawn | DataError]):
    """A source as DataLoader asks for it; a fault travels as a value, so that its sentence stays as it is."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.shape[0]

    def __getitem__(self, at: Tensor) -> Drawn | DataError:
        try:
            return self.source.take(at)
        except DataError as error:
            return DataError(str(error))


def _as_it_is(drawn: Any) -> Any:
    return drawn
