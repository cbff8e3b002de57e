"""What the driver costs: ``apply`` and ``optimize`` against a loop written out by hand.

Both see the same rows in the same order, with the same augmentation, precision and memory layout; the hand-written loop
indexes tensors, calls the same augmentation and torch's fused SGD, and does nothing else. The two take turns in one
process, round by round; the ratio is the median over rounds. Run it with ``python benchmarks/overhead.py [--json]``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

import secateur as sc


class Case(NamedTuple):
    """Random images and a network; what they hold does not matter for time."""

    name: str
    goal: float | None
    rows: int
    shape: tuple[int, int, int]
    width: int
    batch: int
    epochs: int
    augment: bool


CASES = (
    # an update takes 5 ms or more, as on real data: here the driver must not show
    Case("overhead: 32 x 32 images, crop and flip", 1.05, rows=512, shape=(3, 32, 32), width=12, batch=64, epochs=4, augment=True),
    # an update takes about half a millisecond: here all bookkeeping shows
    Case("overhead: half a millisecond an update", None, rows=1024, shape=(1, 8, 8), width=2, batch=16, epochs=8, augment=False),
)


def ours(case: Case, state: sc.State, run: sc.Run) -> Callable[[], None]:
    step = sc.steps.Train(epochs=case.epochs, batch=case.batch, lr=0.01)
    return lambda: sc.apply(step, state, run) and None


def by_hand(case: Case, split: sc.Split, build: Callable[[], torch.nn.Module], run: sc.Run) -> Callable[[], None]:
    x, y = (part.to(run.where) for part in (split.pool._table.x, split.pool._table.y))
    at = torch.from_numpy(split.pool.rows).to(run.where)
    flip = sc.crop_flip(4)

    def train() -> None:
        model = build().to(run.where, memory_format=run.layout).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        updates = math.ceil(len(at) / case.batch)
        rng = torch.Generator().manual_seed(0)
        done = 0
        for _ in range(case.epochs):
            total = torch.zeros((), device=run.where)
            for rows in at[torch.randperm(len(at), generator=rng).to(run.where)].tensor_split(updates):
                optimizer.param_groups[0]["lr"] = 0.01 * 0.1 ** ((done >= 0.5 * case.epochs * updates) + (done >= 0.75 * case.epochs * updates))
                images = x.index_select(0, rows).to(run.dtype).div_(255)
                if case.augment:
                    images = flip(images, rng)
                with run.autocast():
                    loss = functional.cross_entropy(model(images.contiguous(memory_format=run.layout)), y.index_select(0, rows))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
                done += 1
            total.item()
        model.eval()

    return train


def seconds(work: Callable[[], None], run: sc.Run) -> float:
    run.synchronize()
    began = time.perf_counter()
    work()
    run.synchronize()
    return time.perf_counter() - began


def measure(case: Case, rounds: int, run: sc.Run) -> dict[str, object]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (case.rows + 1, *case.shape), dtype=np.uint8)
    y = rng.integers(0, 10, case.rows + 1)
    split = sc.Split.of(x, y, forget=[0], augment=sc.crop_flip(4) if case.augment else None)

    def build() -> torch.nn.Module:
        return sc.zoo.small_cnn(channels=case.shape[0], width=case.width)

    state = sc.State.of(build, split, run)
    ways = {"ours": ours(case, state, run), "by hand": by_hand(case, split, build, run)}
    with run.steady():
        for work in ways.values():
            work()
        took: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(rounds):
            for name in list(ways)[:: 1 if i % 2 else -1]:
                took[name].append(seconds(ways[name], run))
    updates = case.epochs * math.ceil((case.rows + 1) / case.batch)
    each = [a / b for a, b in zip(took["ours"], took["by hand"], strict=True)]
    return {
        "benchmark": case.name,
        "ratio": round(statistics.median(each), 4),
        "goal": case.goal,
        "ms_ours": round(1000 * statistics.median(took["ours"]) / updates, 4),
        "ms_by_hand": round(1000 * statistics.median(took["by hand"]) / updates, 4),
        "rounds": rounds,
        **run.describe(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    run = sc.Run(device=given.device, precision=given.precision, threads=1)
    if not given.json:
        print(f"{'benchmark':<44}{'ours':>10}{'by hand':>10}{'ratio':>8}{'goal':>8}")
    for case in CASES:
        found = measure(case, given.rounds, run)
        if given.json:
            print(json.dumps(found))
        else:
            goal = f"{found['goal']:.2f}" if found["goal"] else "-"
            times = f"{found['ms_ours']:>7} ms{found['ms_by_hand']:>7} ms"
            print(f"{found['benchmark']:<44}{times}{found['ratio']:>8.3f}{goal:>8}")


if __name__ == "__main__":
    main()
