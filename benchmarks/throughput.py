"""Training images a second, against the usual research loop, and what each part of the difference buys.

The usual loop: float32, contiguous (NCHW) tensors, a DataLoader whose workers crop and flip PIL images one by
one. Ours: images on the device as bytes, batched crop and flip, channels last, bf16 where the hardware
multiplies it, freed memory kept. Between the two stands a loop for each part. Each way has a process of its
own, and they take turns with the same network, batch and threads; a ratio is the median over rounds of images
a second to those of the usual loop in that round. "of matrix products" is the share of this machine's
matrix-product speed that the network's arithmetic reaches: what is left above it cannot be won in this
precision. "drawing" is the share of an update that drawing, cropping and flipping takes: the most that doing
it beside the update before could win.

    python benchmarks/throughput.py [--json] [--network resnet18] [--compile]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from secateur.allocator import keep_freed_memory

ROWS, PAD, SIZE = 5_000, 4, 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# network and rows per update: ResNet-18 costs 14 times as much a row
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20s": (functools.partial(sc.zoo.resnet20s, mean=MEAN, std=STD), 256),
    "resnet18": (functools.partial(sc.zoo.resnet18, mean=MEAN, std=STD), 64),
}
USUAL, CROP, LAST, BF16 = "usual loop", "batched crop and flip", "and channels last", "and bf16"
KEPT, COMPILED, OURS = "and freed memory kept", "and torch.compile", "ours, as steps train"
GOAL = 2.0


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


def data() -> tuple[np.ndarray, np.ndarray, sc.Split]:
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 3, SIZE, SIZE), dtype=np.uint8)
    y = np.arange(ROWS) % 10
    return x, y, sc.Split.of(x, y, forget=[0], augment=sc.crop_flip(PAD))


def one_by_one(batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y, _ = data()
    loader = DataLoader(
        OneByOne(x, y),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def batched(batch: int, run: sc.Run) -> Iterator[tuple[Tensor, Tensor]]:
    pool = data()[2].pool.on(run.where, run.dtype, torch.contiguous_format)
    loader = pool.loader(epochs=1_000, batch=batch, rng=run.rng("order"))
    return ((item.x, item.y) for item in loader)


def by_hand(way: str, network: str, asked: argparse.Namespace, run: sc.Run) -> Callable[[], None]:
    """A plain loop; one call is as many updates as a round has."""
    build, batch = NETWORKS[network]
    layout = torch.contiguous_format if way in (USUAL, CROP) else torch.channels_last
    bf16 = run.resolved == "bf16" and way not in (USUAL, CROP, LAST)
    batches = one_by_one(batch, asked.workers) if way == USUAL else batched(batch, run)
    model = build().to(run.where, memory_format=layout).train()
    called = torch.compile(model) if way == COMPILED else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def train() -> None:
        for x, y in itertools.islice(batches, asked.updates):
            x, y = x.to(run.where).contiguous(memory_format=layout), y.to(run.where)
            with torch.autocast(run.where.type, torch.bfloat16, enabled=bf16):
                loss = functional.cross_entropy(called(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def ours(network: str, asked: argparse.Namespace, run: sc.Run) -> Callable[[], None]:
    """The library's own loop, as every step runs it."""
    build, batch = NETWORKS[network]
    state = sc.State.of(build, data()[2], run)

    def train() -> None:
        items = iter(state.pool.loader(epochs=asked.updates, batch=batch, rng=run.rng("order")))
        loader = sc.data.Loader(1, asked.updates, lambda _: items)
        sc.optimize(state, loader, sc.cross_entropy, optimizer=sc.Sgd(lr=0.01, decay=5e-4), run=run)

    return train


def work(line: Connection, way: str, network: str, asked: argparse.Namespace) -> None:
    """One way, in a process of its own: trains a round whenever it is told to, and tells the seconds."""
    run = sc.Run(threads=asked.threads)
    if way in (KEPT, COMPILED, OURS):
        keep_freed_memory()
    with run.steady():
        train = ours(network, asked, run) if way == OURS else by_hand(way, network, asked, run)
        while line.recv():
            began = time.perf_counter()
            train()
            run.synchronize()
            line.send(time.perf_counter() - began)


def rates(ways: list[str], network: str, asked: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of each way, round by round, in turns."""
    context, lines, processes = multiprocessing.get_context("spawn"), {}, []
    for way in ways:
        lines[way], other = context.Pipe()
        # a daemon may have no workers, and the usual loop has some
        processes.append(context.Process(target=work, args=(other, way, network, asked)))
        processes[-1].start()
    found: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(asked.rounds + 1):
        for way in ways[:: 1 if round_ % 2 else -1]:
            lines[way].send(True)
            seconds = lines[way].recv()
            if round_:  # the first warms up
                found[way].append(asked.updates * NETWORKS[network][1] / seconds)
    for line in lines.values():
        line.send(False)
    for process in processes:
        process.join()
    return found


def measure(network: str, asked: argparse.Namespace) -> Iterator[dict[str, object]]:
    run = sc.Run(threads=asked.threads)
    build, batch = NETWORKS[network]
    ways = [USUAL, CROP, LAST, *([BF16] if run.resolved == "bf16" else []), KEPT, OURS]
    found = rates(ways + ([COMPILED] if asked.compile else []), network, asked)
    for way in list(found)[1:]:
        ratio = statistics.median(a / b for a, b in zip(found[way], found[USUAL], strict=True))
        yield {
            "benchmark": f"{network}: {way}",
            "ratio": round(ratio, 3),
            "goal": GOAL if way == OURS else None,
            "images_per_second": round(statistics.median(found[way]), 1),
            "usual_images_per_second": round(statistics.median(found[USUAL]), 1),
            "batch": batch,
            **run.describe(),
        }
    speed = statistics.median(found[OURS])
    with run.steady():
        reached, share = speed * flops(build()) / matrix_flops(run), drawing(batch, run) * speed / batch
    yield {"benchmark": f"{network}: of matrix products", "ratio": round(reached, 3), "goal": None}
    yield {"benchmark": f"{network}: drawing", "ratio": round(share, 4), "goal": None}


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


def drawing(batch: int, run: sc.Run, batches: int = 30) -> float:
    """Seconds to draw, crop and flip a batch."""
    items = batched(batch, run)
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
    parser.add_argument("--updates", type=int, default=4, help="of each way in a round")
    parser.add_argument("--workers", type=int, default=2, help="of the usual loop's DataLoader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    if not asked.json:
        print(f"{'benchmark':<46}{'images/s':>10}{'usual':>8}{'ratio':>8}{'goal':>6}")
    for network in asked.network or NETWORKS:
        for found in measure(network, asked):
            if asked.json:
                print(json.dumps(found), flush=True)
                continue
            rate, usual = found.get("images_per_second", ""), found.get("usual_images_per_second", "")
            goal = found["goal"] or ""
            print(f"{found['benchmark']:<46}{rate:>10}{usual:>8}{found['ratio']:>8}{goal:>6}", flush=True)


if __name__ == "__main__":
    main()
