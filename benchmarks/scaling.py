"""What grows with the size of the work, and what does not. Each measure is a ratio within one run.

- grid: ten methods on two sparsities and two seeds, as one grid, with the epochs of recipes/small/main.toml:
  its seconds, judging and all, to those of its distinct steps. Judging asks each model about each row once,
  so the shorter the trainings, the more it shows. "saved" is the share of all steps' seconds that shared
  beginnings spare: of what the same runs would take, were each taken by itself.
- jobs: the same grid by one job to that by two, one thread each, either in processes of its own.
- step: the seconds of ``apply`` around a step that does nothing to a ResNet-18, to 50 ms.
- memory: an epoch on rows in a file, once on ROWS of them and once on ten times as many, each in a process of
  its own; the ratio is that of the two peaks. A peak is the most, over the process and those that read for
  it, of anonymous and shared memory (Pss_Anon and Pss_Shmem of smaps_rollup, looked at every few
  milliseconds): what these processes would need were there no page cache. Pages of the file itself, which
  the kernel keeps as long as it has room and takes back at will, stand beside it in "mib_resident" (VmHWM,
  of the process alone). "in memory" is the same with all rows read first, for comparison.

    python benchmarks/scaling.py [--json] [--only grid]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROWS, TIMES, SHAPE, BATCH = 10_000, 10, (3, 64, 64), 128
PLAN = {
    "threads": 1,
    "data": {"use": "digits", "test": 0.2, "forget": {"how": "random", "share": 0.1}},
    "model": {"use": "resnet20s"},
    "step": [
        {"use": "train", "epochs": 16},
        {"use": "magnitude", "as": "prune", "sparsity": 0.5},
        {"use": "fine-tune", "as": "unlearn"},
    ],
    "audit": [{"use": "accuracy"}, {"use": "mia-efficacy"}],
    "grid": {
        "seed": [0, 1],
        "prune": [[], [{"use": "magnitude", "sparsity": 0.9}, {"use": "train", "as": "again", "epochs": 16}]],
        "unlearn": [
            {"use": "retrain", "epochs": 16},
            {"use": "retrain", "epochs": 16, "smoothing": 0.1},
            {"use": "fine-tune", "epochs": 5},
            {"use": "fine-tune", "epochs": 5, "lr": 0.05},
            {"use": "gradient-ascent", "epochs": 3, "lr": 1e-5},
            {"use": "l1-sparse", "epochs": 5},
            {"use": "l1-sparse", "epochs": 5, "penalty": "proximal"},
            {"use": "prune-and-tune", "epochs": 5, "sparsity": 0.95},
            {"use": "fisher", "kind": "sampled"},
            {"use": "influence", "damping": 0.1, "tolerance": 0.1, "rows": 160},
        ],
    },
}
MOST, LEAST = "at most", "at least"  # on which side of its goal a ratio should lie
WAYS = (("mapped", 0, 1.1), ("mapped", 2, 1.1), ("in-memory", 0, None))
Found = dict[str, Any]


def grid() -> Iterator[Found]:
    """A grid's seconds to those of its distinct steps."""
    found = alone("grid", 1)
    yield {
        "benchmark": "grid: ten methods, two sparsities",
        "ratio": round(found["seconds"] / found["distinct"], 3),
        "goal": 1.15,
        "bound": MOST,
        "saved": round(1 - found["distinct"] / found["all"], 3),
        **found,
    }


def jobs() -> Iterator[Found]:
    """A grid's seconds by one job to those by two."""
    one, two = alone("grid", 1), alone("grid", 2)
    yield {
        "benchmark": "jobs: two to one",
        "ratio": round(one["seconds"] / two["seconds"], 3),
        "goal": 1.6,
        "bound": LEAST,
        "seconds": [one["seconds"], two["seconds"]],
    }


def step() -> Iterator[Found]:
    """What ``apply`` costs around a step."""
    found = alone("step")
    yield {
        "benchmark": "step: apply around ResNet-18",
        "ratio": round(found["seconds"] / 0.050, 3),
        "goal": 1.0,
        "bound": MOST,
        **found,
    }


def run_grid(count: str) -> Found:
    """In a process of its own: the grid in a new store."""
    from secateur import lab

    plans = lab.expand(PLAN)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        ended = lab.run_grid(plans, Path(folder), jobs=int(count))
        seconds = time.perf_counter() - began
        taken = [json.loads(meta.read_text())["trace"] for meta in Path(folder).glob("steps/*/meta.json")]
    if ended.failures:
        raise SystemExit(str(ended.failures))
    every = sum(trace.seconds for record in ended.records for trace in record.steps)
    distinct = sum(trace["seconds"] for trace in taken)
    return {"seconds": round(seconds, 1), "distinct": round(distinct, 1), "all": round(every, 1)}


def take_step() -> Found:
    """In a process of its own: the median of ten applications of a step that does nothing."""
    from dataclasses import dataclass

    import secateur as sc
    from secateur.card import Card

    @dataclass(frozen=True, kw_only=True)
    class Nothing:
        """Does nothing."""

        card = Card(summary="Does nothing.", paper="", data="none")
        reads = frozenset()

        def __call__(self, state: sc.State, run: sc.Run, /) -> sc.State:
            return state

    run = sc.Run(device="cpu", precision="fp32", threads=1)
    x = np.zeros((4, 3, 32, 32), np.uint8)
    state = sc.State.of(sc.zoo.resnet18, sc.Split.of(x, np.arange(4), forget=[0]), run)
    state = sc.apply(sc.steps.Magnitude(sparsity=0.9), state, run).state
    times = []
    for _ in range(10):
        began = time.perf_counter()
        sc.apply(Nothing(), state, run)
        times.append(time.perf_counter() - began)
    return {"seconds": round(statistics.median(times), 4)}


def memory() -> Iterator[Found]:
    """Peak memory of a training on ten times the rows, to that on the rows."""
    with tempfile.TemporaryDirectory() as folder:
        file, rows = Path(folder, "x.npy"), ROWS * TIMES
        x = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(rows, *SHAPE))
        rng = np.random.default_rng(0)
        for start in range(0, rows, 1000):
            x[start : start + 1000] = rng.integers(0, 256, (1000, *SHAPE), dtype=np.uint8)
        x.flush()
        for way, workers, goal in WAYS:
            few, many = (alone("memory", file, n, way, workers) for n in (ROWS, rows))
            yield {
                "benchmark": f"memory: {way.replace('-', ' ')}, {workers} workers",
                "ratio": round(many["peak"] / few["peak"], 3),
                "goal": goal,
                "bound": None if goal is None else MOST,
                "mib": [few["peak"], many["peak"]],
                "mib_resident": [few["resident"], many["resident"]],
                "mib_of_rows": [round(n * np.prod(SHAPE) / 2**20) for n in (ROWS, rows)],
                "seconds": [few["seconds"], many["seconds"]],
            }


def train(file: str, rows: str, way: str, workers: str) -> Found:
    """In a process of its own: an epoch on the first rows of a file."""
    import torch
    from torch import nn

    import secateur as sc

    done, peak = threading.Event(), [0.0]

    def look() -> None:
        while not done.wait(0.003):
            peak[0] = max(peak[0], held())

    x = np.load(file, mmap_mode="r")[: int(rows)]
    run = sc.Run(threads=1, device="cpu", precision="fp32")
    watching = threading.Thread(target=look)
    watching.start()
    began = time.perf_counter()
    split = sc.Split.of(x, np.arange(len(x)) % 10, forget=range(100), memory=way, workers=int(workers))
    network = torch.nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SHAPE)), 10))
    state = sc.State.of(lambda: fresh(network), split, run)
    sc.apply(sc.steps.Train(epochs=1, batch=BATCH, lr=1e-4), state, run)
    done.set()
    watching.join()
    return {
        "peak": round(peak[0]),
        "resident": round(field("/proc/self/status", "VmHWM")),
        "seconds": round(time.perf_counter() - began, 1),
    }


def fresh(network: Any) -> Any:
    """The same layers, newly initialised."""
    import copy

    other = copy.deepcopy(network)
    other[1].reset_parameters()
    return other


def held() -> float:
    """MiB of anonymous and shared memory of this process and its children, shared pages divided."""
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *(pid for task in children for pid in read(task).split())]
    rolled = [f"/proc/{pid}/smaps_rollup" for pid in pids]
    return sum(field(file, name) for file in rolled for name in ("Pss_Anon", "Pss_Shmem"))


def read(file: str | Path) -> str:
    """A file of /proc; nothing where its process has ended."""
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def field(file: str, name: str) -> float:
    """A field in MiB."""
    lines = (line.split() for line in read(file).splitlines())
    return next((int(words[1]) / 1024 for words in lines if words[0] == f"{name}:"), 0.0)


def alone(task: str, *given: object) -> Found:
    """Do a task in a new process, so that what others have held does not count."""
    words = [sys.executable, __file__, "--task", task, *map(str, given)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


MEASURES: dict[str, Callable[[], Iterator[Found]]] = {
    "grid": grid,
    "jobs": jobs,
    "step": step,
    "memory": memory,
}
TASKS: dict[str, Callable[..., Found]] = {"grid": run_grid, "step": take_step, "memory": train}


def row(found: Found) -> str:
    """A measure as a line for people."""
    goal = "-" if found["goal"] is None else f"{found['bound']} {found['goal']:.2f}"
    saved = f"{found['saved']:.0%}" if "saved" in found else "-"
    return f"{found['benchmark']:<36}{found['ratio']:>8.3f}{goal:>16}{saved:>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", choices=MEASURES, help="one measure; default: all")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        name, *words = given.task
        print(json.dumps(TASKS[name](*words)))
        return
    if not given.json:
        print(f"{'benchmark':<36}{'ratio':>8}{'goal':>16}{'saved':>8}")
    for name in [given.only] if given.only else MEASURES:
        for found in MEASURES[name]():
            print(json.dumps(found) if given.json else row(found), flush=True)


if __name__ == "__main__":
    main()
