"""Training images a second, against the usual research loop, and what each part of the difference buys.

The usual loop: float32, contiguous (NCHW) tensors, a DataLoader whose workers crop and flip PIL images one by
one. Ours: images on the device as bytes, batched crop and flip, channels last, bf16 where the hardware
multiplies it, freed memory kept. Between the two stands a loop for each part, so the table says what each
buys. All take turns in one process, with the same network, batch and thread count; the first loop is measured
again beside the last, and a ratio is the median over rounds. "of what matrix products reach" says how much of
this machine's speed the arithmetic of the network uses: what is left cannot be won without other hardware.

    python benchmarks/throughput.py [--json] [--network resnet18] [--compile]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from secateur.allocator import keep_freed_memory

ROWS, BATCH, PAD, SIZE = 5_000, 256, 4, 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20s": functools.partial(sc.zoo.resnet20s, mean=MEAN, std=STD),
    "resnet18": functools.partial(sc.zoo.resnet18, mean=MEAN, std=STD),
}
USUAL, OURS, GOAL = "the usual loop", "ours", 2.0


class OneByOne(Dataset[tuple[Tensor, int]]):
    """What research code does: each image by itself, as PIL."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x.transpose(0, 2, 3, 1), y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = ImageOps.expand(Image.fromarray(self.x[i]), PAD)
        top, left = torch.randint(2 * PAD + 1, (2,)).tolist()
        image = image.crop((left, top, left + SIZE, top + SIZE))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels, int(self.y[i])


def one_by_one(x: np.ndarray, y: np.ndarray, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(
        OneByOne(x, y), batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return itertools.chain.from_iterable(itertools.repeat(loader))


def batched(view: sc.data.View, run: sc.Run) -> Iterator[tuple[Tensor, Tensor]]:
    loader = view.on(run.where, run.dtype, torch.contiguous_format).loader(
        epochs=1_000, batch=BATCH, rng=run.rng("order")
    )
    return ((batch.x, batch.y) for batch in loader)


def by_hand(
    build: Callable[[], nn.Module],
    batches: Iterator[tuple[Tensor, Tensor]],
    layout: torch.memory_format,
    run: sc.Run,
    *,
    bf16: bool = False,
    compiled: bool = False,
) -> Callable[[int], None]:
    """A plain loop: so many updates at each call."""
    model = build().to(run.where, memory_format=layout).train()
    called = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def train(updates: int) -> None:
        for x, y in itertools.islice(batches, updates):
            x, y = x.to(run.where).contiguous(memory_format=layout), y.to(run.where)
            with torch.autocast(run.where.type, torch.bfloat16, enabled=bf16):
                loss = functional.cross_entropy(called(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def ours(build: Callable[[], nn.Module], split: sc.Split, run: sc.Run) -> Callable[[int], None]:
    """The library's own loop, as every step runs it."""
    state = sc.State.of(build, split, run)

    def train(updates: int) -> None:
        items = iter(state.pool.loader(epochs=updates, batch=BATCH, rng=run.rng("order")))
        loader = sc.data.Loader(1, updates, lambda _: items)
        sc.optimize(state, loader, sc.cross_entropy, optimizer=sc.Sgd(lr=0.01, decay=5e-4), run=run)

    return train


def rates(ways: dict[str, Callable[[int], None]], rounds: int, updates: int) -> dict[str, list[float]]:
    """Images a second of each way, round by round, in turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name in list(ways)[:: 1 if round_ % 2 else -1]:
            began = time.perf_counter()
            ways[name](updates)
            if round_:  # the first warms up
                found[name].append(updates * BATCH / (time.perf_counter() - began))
    return found


def measure(network: str, asked: argparse.Namespace, run: sc.Run) -> Iterator[dict[str, object]]:
    build, rng = NETWORKS[network], np.random.default_rng(0)
    x = rng.integers(0, 256, (ROWS, 3, SIZE, SIZE), dtype=np.uint8)
    y = np.arange(ROWS) % 10
    split = sc.Split.of(x, y, forget=[0], augment=sc.crop_flip(PAD))
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    usual = by_hand(build, one_by_one(x, y, asked.workers), nchw, run)
    ladder = {
        USUAL: usual,
        "batched crop and flip": by_hand(build, batched(split.pool, run), nchw, run),
        "and channels last": by_hand(build, batched(split.pool, run), nhwc, run),
    }
    if run.resolved == "bf16":
        ladder["and bf16"] = by_hand(build, batched(split.pool, run), nhwc, run, bf16=True)
    if asked.compile:
        bf16 = run.resolved == "bf16"
        ladder["and torch.compile"] = by_hand(
            build, batched(split.pool, run), nhwc, run, bf16=bf16, compiled=True
        )
    for name, found in against_usual(ladder, asked).items():
        yield {"benchmark": f"{network}: {name}", **found, "goal": None, **run.describe()}
    whole = {USUAL: usual, OURS: ours(build, split, run)}
    before = rates({"ours": whole[OURS]}, asked.rounds, asked.updates)["ours"]
    # set for good and for the whole process, so it comes last; the usual loop gains by it too
    keep_freed_memory()
    for name, found in against_usual(whole, asked).items():
        yield {"benchmark": f"{network}: {name}", **found, "goal": GOAL, **run.describe()}
        kept = found["images_per_second"] / statistics.median(before)
        yield {"benchmark": f"{network}: freed memory kept, of ours", "ratio": round(kept, 3), "goal": None}
        speed = found["images_per_second"] * flops(build()) / matrix_flops(run)
        yield {
            "benchmark": f"{network}: of what matrix products reach",
            "ratio": round(speed, 3),
            "goal": None,
        }
    share = drawing(split.pool, run) * found["images_per_second"] / BATCH
    yield {"benchmark": f"{network}: crop and flip, of an update", "ratio": round(share, 4), "goal": None}


def against_usual(
    ways: dict[str, Callable[[int], None]], asked: argparse.Namespace
) -> dict[str, dict[str, float]]:
    found = rates(ways, asked.rounds, asked.updates)
    return {
        name: {
            "ratio": round(
                statistics.median(a / b for a, b in zip(found[name], found[USUAL], strict=True)), 3
            ),
            "images_per_second": round(statistics.median(found[name]), 1),
            "usual_images_per_second": round(statistics.median(found[USUAL]), 1),
        }
        for name in list(ways)[1:]
    }


def flops(model: nn.Module) -> float:
    """Of training on one image, by torch's own count."""
    with FlopCounterMode(display=False) as counter:
        model.train()(torch.rand(2, 3, SIZE, SIZE)).sum().backward()
    return counter.get_total_flops() / 2


def matrix_flops(run: sc.Run, size: int = 2048) -> float:
    """Floating-point operations a second of one large matrix product, the best of a few."""
    a = torch.rand(size, size, device=run.where)
    took = []
    for _ in range(5):
        began = time.perf_counter()
        with run.autocast():
            a @ a
        run.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)


def drawing(view: sc.data.View, run: sc.Run, batches: int = 30) -> float:
    """Seconds to draw, crop and flip a batch: all that doing so beside the previous update could save."""
    items = batched(view, run)
    next(items)
    began = time.perf_counter()
    for _ in range(batches):
        next(items)
    run.synchronize()
    return (time.perf_counter() - began) / batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--network", choices=NETWORKS, action="append", help="may be given twice; default: both"
    )
    parser.add_argument("--compile", action="store_true", help="also try torch.compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="of the usual loop's DataLoader")
    asked = parser.parse_args()
    run = sc.Run(threads=torch.get_num_threads())
    if not asked.json:
        print(f"{'benchmark':<46}{'images/s':>10}{'usual':>8}{'ratio':>8}{'goal':>6}")
    for network in asked.network or NETWORKS:
        with run.steady():
            for found in measure(network, asked, run):
                if asked.json:
                    print(json.dumps(found), flush=True)
                    continue
                rate, usual = found.get("images_per_second", ""), found.get("usual_images_per_second", "")
                goal = found["goal"] or ""
                print(f"{found['benchmark']:<46}{rate:>10}{usual:>8}{found['ratio']:>8}{goal:>6}", flush=True)


if __name__ == "__main__":
    main()
