"""What the driver costs: ``apply`` and ``optimize`` against a loop written out by hand.

Both train on the same rows with the same augmentation, precision, memory layout and schedule. The loop
written by hand indexes tensors, calls the same augmentation and torch's fused SGD, adds up its loss, and does
nothing else. The two take turns in one process; the ratio is the median over rounds.
Run it with ``python benchmarks/overhead.py [--json]``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import secateur as sc


class Case(NamedTuple):
    """Random images and a network; what they hold does not matter for time."""

    name: str
    goal: float | None
    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    augment: bool


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


ROWS, BATCH, EPOCHS = 512, 64, 6
CASES = (
    # an update takes 5 ms or more, as on real data: here the driver must not show
    Case(
        "overhead: 32 x 32, crop and flip",
        1.05,
        partial(sc.zoo.small_cnn, channels=3, width=6),
        (3, 32, 32),
        True,
    ),
    # an update takes well below a millisecond: here all bookkeeping shows
    Case("overhead: two dense layers", None, dense, (1, 8, 8), False),
)


def ours(case: Case, state: sc.State, run: sc.Run) -> Callable[[], None]:
    step = sc.steps.Train(epochs=epochs(case), batch=BATCH, lr=0.01)
    return lambda: sc.apply(step, state, run) and None


def epochs(case: Case) -> int:
    return EPOCHS if case.goal else 20 * EPOCHS


def by_hand(case: Case, split: sc.Split, run: sc.Run) -> Callable[[], None]:
    x, y = (part.to(run.where) for part in (split.pool._table.x, split.pool._table.y))
    at = torch.from_numpy(split.pool.rows).to(run.where)
    flip = sc.crop_flip(4)

    def train() -> None:
        model = case.build().to(run.where, memory_format=run.layout).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        updates = math.ceil(len(at) / BATCH)
        rng = torch.Generator().manual_seed(0)
        done, last = 0, epochs(case) * updates
        for _ in range(epochs(case)):
            total = torch.zeros((), device=run.where)
            for rows in at[torch.randperm(len(at), generator=rng).to(run.where)].tensor_split(updates):
                optimizer.param_groups[0]["lr"] = 0.01 * 0.1 ** ((done >= last / 2) + (done >= last * 3 / 4))
                images = x.index_select(0, rows).to(run.dtype).div_(255)
                if case.augment:
                    images = flip(images, rng)
                images = images.contiguous(memory_format=run.layout)
                with run.autocast():
                    loss = functional.cross_entropy(model(images), y.index_select(0, rows))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
                done += 1
            total.item()
        model.eval()

    return train


def seconds(work: Callable[[], None], run: sc.Run) -> float:
    # where one thread computes, its own time: others may share the machine
    clock = time.process_time if run.where.type == "cpu" else time.perf_counter
    run.synchronize()
    began = clock()
    work()
    run.synchronize()
    return clock() - began


def measure(case: Case, rounds: int, run: sc.Run) -> dict[str, object]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (ROWS, *case.shape), dtype=np.uint8)
    split = sc.Split.of(
        x, np.arange(ROWS) % 10, forget=[0], augment=sc.crop_flip(4) if case.augment else None
    )
    state = sc.State.of(case.build, split, run)
    ways = {"ours": ours(case, state, run), "by hand": by_hand(case, split, run)}
    with run.steady():
        for work in ways.values():
            work()
        took: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(rounds):
            for name in list(ways)[:: 1 if i % 2 else -1]:
                took[name].append(seconds(ways[name], run))
    updates = epochs(case) * math.ceil(ROWS / BATCH)
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
