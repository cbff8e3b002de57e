"""Run: where and how to compute, and the only source of chance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Generator

from secateur.errors import UsageError, told
from secateur.ranks import world

Precision = Literal["auto", "fp32", "bf16", "fp64"]


class Progress(Protocol):
    """Shows how far long work has come."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A bar of ``total`` units; call what it gives with the number of units just done."""
        ...


class Silent:
    """Shows nothing."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A bar that is not drawn."""
        return nullcontext(lambda done: None)


class Checkpoints(Protocol):
    """Keeps a training in its midst, so that one that was killed goes on from there.

    Attributes:
        seconds: That the step had taken by the checkpoint from which it goes on.
    """

    seconds: float

    def begin(self) -> Mapping[str, bytes] | None:
        """The step's next training begins: where it was, if it had been under way before."""
        ...

    def due(self, done: int) -> bool:
        """Whether to keep the training now, before its next update; every process gets one answer."""
        ...

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep it; does not come back where the process is asked to end."""
        ...

    def end(self, files: Callable[[], Mapping[str, bytes]]) -> None:
        """It has ended: what comes after it in the step may be killed too."""
        ...


class Nowhere:
    """Keeps nothing.

    Attributes:
        seconds: 0.
    """

    seconds = 0.0

    def begin(self) -> None:
        """Nothing was kept."""

    def due(self, done: int) -> bool:
        """Never."""
        return False

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Does nothing."""

    def end(self, files: Callable[[], Mapping[str, bytes]]) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Run:
    """Where and how to compute. Immutable: the same call gives the same bits however often it was used.

    Attributes:
        seed: Of all named streams.
        device: "auto" takes a GPU where there is one; else as torch writes it.
        precision: "fp32"; "bf16" (autocast, fp32 weights); "fp64" (data and model in double); "auto": bf16
            where the hardware multiplies it, else fp32.
        threads: Of torch's CPU kernels; part of what makes bits repeatable.
        compile: Train through ``torch.compile``: half a minute for each step before the first update, and
            other bits. It pays on a GPU where training is long.
        accumulate: Parts of each batch that training passes one after the other before it updates: less
            memory, the same gradient but for rounding. Batch norm sees each part by itself.
        recompute: Whether training keeps only what enters each block of the network and computes the rest
            again on the way back: less memory, a third more time, the same bits.
        batchnorm: What it normalises by where several processes train together: "local", the rows of its own
            process, the running statistics being those of rank 0; or "sync", the rows of all (GPUs only).
        depth: Steps taken so far; set by ``apply``, part of every stream's name.
        notes: Name to numbers noted, in order; ``apply`` hands each step a fresh one.
        progress: Where to show progress.
        checkpoints: Where trainings are kept in their midst.

    Raises:
        UsageError: A device that is not here, or another field that makes no sense.
    """

    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    threads: int = field(default_factory=torch.get_num_threads)
    compile: bool = False
    accumulate: int = 1
    recompute: bool = False
    batchnorm: Literal["local", "sync"] = "local"
    depth: int = 0
    notes: dict[str, list[float]] = field(default_factory=dict, repr=False, compare=False)
    progress: Progress = field(default_factory=Silent, repr=False, compare=False)
    checkpoints: Checkpoints = field(default_factory=Nowhere, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"expected a seed that is a whole number from 0 on, got {self.seed!r}")
        if self.precision not in ("auto", "fp32", "bf16", "fp64"):
            raise UsageError(f'expected precision "auto", "fp32", "bf16" or "fp64", got {self.precision!r}')
        for name, switch in (("compile", self.compile), ("recompute", self.recompute)):
            if not isinstance(switch, bool):
                raise UsageError(f"expected {name} as true or false, got {switch!r}")
        for count, what in ((self.threads, "thread"), (self.accumulate, "part of a batch to accumulate")):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise UsageError(f"expected at least one {what}, got {count!r}")
        if self.batchnorm not in ("local", "sync"):
            raise UsageError(f'expected batchnorm "local" or "sync", got {self.batchnorm!r}')
        try:
            torch.empty(0, device=self.where)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                f'expected a device that is here, got "{self.device}" ({told(error)}): use "cpu" or "auto"'
            ) from error
        if self.batchnorm == "sync" and self.where.type != "cuda":
            raise UsageError(
                'expected GPUs for batchnorm = "sync", got the CPU: torch has it for them alone; set "local"'
            )

    @property
    def where(self) -> torch.device:
        """The device."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def resolved(self) -> Literal["fp32", "bf16", "fp64"]:
        """The precision that "auto" stands for here: a function of the hardware, never of a timing."""
        if self.precision != "auto":
            return self.precision
        if self.where.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        return (
            "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"
        )

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of data and weights."""
        return torch.float64 if self.resolved == "fp64" else torch.float32

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout of images and of convolution weights: channels last, but for fp64."""
        return torch.contiguous_format if self.resolved == "fp64" else torch.channels_last

    def rng(self, name: str) -> Generator:
        """A named random stream: a CPU generator that is a pure function of (seed, depth, name)."""
        return Generator().manual_seed(self._seed_of(name))

    def _seed_of(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{self.depth}/{name}".encode()).digest()[:7], "big")

    def note(self, name: str, value: float) -> None:
        """Note a number for the step's trace; a name noted again makes a series."""
        self.notes.setdefault(name, []).append(float(value))

    def at(self, depth: int) -> Run:
        """The same run before its ``depth``-th step, with fresh notes."""
        return replace(self, depth=depth, notes={})

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for training, where this run asks for it."""
        return torch.autocast(self.where.type, torch.bfloat16) if self.resolved == "bf16" else nullcontext()

    @contextmanager
    def seeded(self, name: str) -> Iterator[None]:
        """Torch's global generators under a named stream, put back after it: for ``nn.init`` and dropout."""
        cuda = self.where.type == "cuda"
        index = torch.empty(0, device=self.where).get_device()
        with torch.random.fork_rng(devices=[index] if cuda else []):
            # each by itself: torch.manual_seed would also move those of devices that are not put back
            torch.default_generator.manual_seed(self._seed_of(name))
            if cuda:
                torch.cuda.default_generators[index].manual_seed(self._seed_of(name))
            yield

    @contextmanager
    def steady(self, *, tf32: bool = True) -> Iterator[None]:
        """This run's thread count, and kernels that repeat their bits; put back afterwards.

        Args:
            tf32: Whether convolutions on a GPU may round to 10 bits, as torch does by itself.

        Yields:
            Nothing.
        """
        threads, rounding = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("highest")
        try:
            flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": tf32}
            with torch.backends.cudnn.flags(**flags):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(rounding)

    def synchronize(self) -> None:
        """Wait for the device, so that a clock tells the truth."""
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)

    def describe(self) -> dict[str, Any]:
        """What decides the bits beside plan and data: for keys and records."""
        # left out where off: a record of today keeps the key that it had before there were such things
        unusual: dict[str, Any] = {"compile": True} if self.compile else {}
        if self.accumulate > 1:
            unusual["accumulate"] = self.accumulate
        if self.batchnorm != "local":
            unusual["batchnorm"] = self.batchnorm
        return unusual | {
            "device": self.where.type,
            "precision": self.resolved,
            "threads": self.threads,
            "world_size": world(),
            "torch": torch.__version__,
        }
