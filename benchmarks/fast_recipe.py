"""What recipes/paper/table1-fast.toml will cost on a GPU: an ESTIMATE made on a CPU, never measured on a GPU.

- row: what one row takes of each kind of work that the recipe asks for (ResNet-18, random images of 32 x 32),
  timed here, in turns. Training is by ``optimize`` in the precision that "auto" takes; all else is fp32, as
  steps and judging do it. "ratio" is in rows of training in fp32: in first order the same on any machine.
- of matrix products: the share of the speed of a large matrix product, in the same precision, that the
  arithmetic of training reaches here. No number below comes from it; it tells how far shares can lie apart.
- work: what the whole grid asks for, counted from the recipe by the keys of the store, so that what runs
  share counts once. "ratio" is its share of all row equivalents: rows times their ratio above.
- ESTIMATE: row equivalents times the operations of a row of training, at a share of a device's peak: that of
  bf16 for training, of fp32 for the rest. "ratio" is 30 minutes, the goal, to the minutes. The shares are
  guesses, so the last line tells the share of both peaks that the goal asks for.

Left out: the predictors of mia-efficacy, which are fitted on the CPU; launching kernels (the budget of
memory cuts Fisher and influence into chunks of 13 to 56 rows); decoding images, reading and writing the
store. Rather too much: conjugate gradients count in full, though they may stop earlier; the Fisher's looks
at single rows before it starts, which weigh more on few rows; fp32 for the convolutions of Fisher and
influence, which may round to TF32 on a GPU. Unknown: how a GPU does convolutions with a group for each row,
by which the Fisher squares gradients.

Times are CPU seconds and ratios medians over rounds, since others may work on the machine: "load" tells.

    python benchmarks/fast_recipe.py [--json] [--peak 989 67] [--share 0.1 0.05]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from throughput import flops
from torch.nn import functional

import secateur as sc
from secateur import lab
from secateur.allocator import keep_freed_memory
from secateur.lab.execute import Lab
from secateur.lab.tasks import Grounds, chain
from secateur.maths.curvature import Curvature, diagonal_fisher, mean_gradient

RECIPE = Path(__file__).parents[1] / "recipes" / "paper" / "table1-fast.toml"
GOAL, SIDE, PRODUCTS = 30.0, 2048, 4  # minutes; of the matrices, and how many products in a round
TRAINING, JUDGING, FISHER = "training", "judging", "Fisher, sampled"
GRADIENT, PRODUCT = "gradient", "product with the GGN"
TRAINING_FP32, MATRICES, MATRICES_FP32 = "training, fp32", "matrix products", "matrix products, fp32"
Found = dict[str, Any]


class Work(NamedTuple):
    """What a grid asks for, each thing once.

    Attributes:
        steps: Name of a step to how many different ones.
        rows: Kind of work to rows, each time counted.
    """

    steps: Counter[str]
    rows: Counter[str]


def stand_in() -> sc.zoo.Collection:
    """As many rows as CIFAR-10 has in each class, and as small as can be: keys need no more."""
    made = [(np.zeros((n, 3, 4, 4), np.uint8), np.arange(n) % 10) for n in (50_000, 10_000)]
    return sc.zoo.Collection(train=made[0], test=made[1])


def work(recipe: Path = RECIPE) -> Work:
    """Steps and rows of the whole grid, each key once, as the store would have it."""
    plans = lab.expand(lab.load(recipe, [f"data.use={Path(__file__).stem}:stand_in"]), source=str(recipe))
    steps, rows = Counter[str](), Counter[str]()
    seen = set[Any]()
    with tempfile.TemporaryDirectory() as folder:
        store = lab.Store(Path(folder))  # stays empty
        grounds = Grounds(Lab(store))
        for plan in plans:
            ground = grounds.of(plan)
            found = iter(chain(plan, ground, store))
            for path in plan.paths:
                keys = [ground.link.key]
                for key, planned in (next(found) for _ in path):
                    keys.append(key)
                    if key not in seen:
                        seen.add(key)
                        steps[planned.use] += 1
                        rows.update(passes(planned.step, ground.split))
                # unlearning is judged by the models before and after it, each asked once about all rows
                for key in (keys[-1 if plan.unlearn is None else plan.unlearn], keys[-1]):
                    if (asked := (key, ground.split.hash)) not in seen:
                        seen.add(asked)
                        rows[JUDGING] += sum(map(len, ground.split.values()))
    return Work(steps, rows)


def passes(step: sc.Step, split: sc.Split) -> dict[str, int]:
    """Rows that a step passes through the network, for each kind of work."""
    retain, forget, pool = len(split.retain), len(split.forget), len(split.pool)
    match step:
        case sc.steps.Magnitude():
            return {}
        case sc.steps.Train():
            return {TRAINING: (step.epochs - step.start) * pool}
        case sc.steps.Retrain(sam=0.0) | sc.steps.FineTune() | sc.steps.L1Sparse():
            return {TRAINING: step.epochs * retain}
        case sc.steps.GradientAscent(norms="frozen"):
            return {TRAINING: step.epochs * forget}
        case sc.steps.Fisher(kind="sampled"):
            return {FISHER: retain}
        case sc.steps.Influence(solver="cg", curvature="ggn", rank=0):
            once = retain if step.rows is None else step.rows
            # one product more than steps: the residual is measured
            return {GRADIENT: forget + retain, PRODUCT: (step.products + 1) * once}
    raise SystemExit(f"expected a step whose rows are counted here, got {step}: add it to `passes`")


def ways(asked: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Each kind of work, on so many rows."""
    x = np.random.default_rng(0).integers(0, 256, (asked.rows, 3, 32, 32), dtype=np.uint8)
    split = sc.Split.of(x, np.arange(asked.rows) % 10, forget=[0], augment=sc.crop_flip(4))
    auto, plain = (sc.Run(device="cpu", precision=p, threads=asked.threads) for p in ("auto", "fp32"))

    def training(run: sc.Run) -> Callable[[], object]:
        state, sgd = sc.State.of(sc.zoo.resnet18, split, run), sc.Sgd(lr=0.01, nesterov=True, decay=5e-4)

        def train() -> sc.State:
            loader = state.pool.loader(epochs=1, batch=asked.batch, rng=run.rng("order"))
            return sc.optimize(state, loader, sc.cross_entropy, optimizer=sgd, run=run)

        return train

    def matrices(dtype: torch.dtype) -> Callable[[], object]:
        a = torch.rand(SIDE, SIDE).to(dtype)
        # by the library that does the convolutions: the other one leaves half of some CPUs' fp32 unused
        if dtype is torch.float32 and torch.backends.mkldnn.is_available():
            a = a.to_mkldnn()
        return lambda: [functional.linear(a, a) for _ in range(PRODUCTS)]

    state = sc.State.of(sc.zoo.resnet18, split, plain)
    model, pool = state.model, state.pool
    # as steps find it, and as influence lays it out
    laid_out = sc.State.of(sc.zoo.resnet18, split, plain).model.to(memory_format=plain.layout)
    curvature = Curvature(laid_out, pool.once)
    vector = mean_gradient(laid_out, pool.once())
    return {
        TRAINING: training(auto),
        TRAINING_FP32: training(plain),
        JUDGING: lambda: sc.observe(model, {"pool": split.pool}, plain),
        FISHER: lambda: diagonal_fisher(model, pool.once(), kind="sampled", rng=plain.rng("classes")),
        GRADIENT: lambda: mean_gradient(laid_out, pool.once()),
        PRODUCT: lambda: curvature(vector),
        MATRICES: matrices(torch.bfloat16 if auto.resolved == "bf16" else torch.float32),
        MATRICES_FP32: matrices(torch.float32),
    }


def turns(asked: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds of each kind of work, round by round, in turns."""
    called = ways(asked)
    found: dict[str, list[float]] = {way: [] for way in called}
    with sc.Run(device="cpu", threads=asked.threads).steady():
        for round_ in range(asked.rounds + 1):
            for way in list(called)[:: 1 if round_ % 2 else -1]:
                began = time.process_time()
                called[way]()
                if round_:  # the first warms up
                    found[way].append(time.process_time() - began)
    return found


def measure(asked: argparse.Namespace) -> Iterator[Found]:
    wanted, operations = work(asked.recipe), flops(sc.zoo.resnet18())
    taken = turns(asked)
    bf16 = sc.Run(device="cpu").resolved
    ratios: dict[str, float] = {}
    for way in (TRAINING_FP32, TRAINING, JUDGING, FISHER, GRADIENT, PRODUCT):
        pairs = zip(taken[way], taken[TRAINING_FP32], strict=True)
        ratios[way] = statistics.median(a / b for a, b in pairs)
        yield {
            "benchmark": f"row: {way}",
            "ratio": round(ratios[way], 3),
            "goal": None,
            "cpu_ms": round(1000 * statistics.median(taken[way]) / asked.rows, 2),
            "precision": bf16 if way == TRAINING else "fp32",
            "rows": asked.rows,
            "rounds": asked.rounds,
            "threads": asked.threads,
            "load": round(os.getloadavg()[0], 1),
        }
    for way, product, precision in (
        (TRAINING, MATRICES, bf16),
        (TRAINING_FP32, MATRICES_FP32, "fp32"),
    ):
        times = 2 * SIDE**3 * PRODUCTS / (operations * asked.rows)  # as many operations as training does
        share = statistics.median(b / a / times for a, b in zip(taken[way], taken[product], strict=True))
        yield {
            "benchmark": f"of matrix products: {way}",
            "ratio": round(share, 3),
            "goal": None,
            "gflops": round(2 * SIDE**3 * PRODUCTS / statistics.median(taken[product]) / 1e9, 1),
            "precision": precision,
        }
    # the device multiplies bf16: a row of training there is one of its own precision
    equal = {way: n * (1.0 if way == TRAINING else ratios[way]) for way, n in wanted.rows.items()}
    for way, n in wanted.rows.items():
        yield {
            "benchmark": f"work: {way}",
            "ratio": round(equal[way] / sum(equal.values()), 3),
            "goal": None,
            "rows": n,
            "row_equivalents": round(equal[way]),
        }
    yield from estimates(equal, operations, asked)


def estimates(equal: dict[str, float], operations: float, asked: argparse.Namespace) -> Iterator[Found]:
    """Minutes on a device of these peaks, by rows of training that the work comes to."""
    fast = operations * equal[TRAINING] / (asked.peak[0] * 1e12) / 60
    slow = operations * (sum(equal.values()) - equal[TRAINING]) / (asked.peak[1] * 1e12) / 60
    peaks = {"peak_bf16": asked.peak[0], "peak_fp32": asked.peak[1], "measured_on_gpu": False}
    for share in asked.share:
        minutes = {"minutes": fast + slow, "minutes_bf16": fast, "minutes_fp32": slow}
        yield {
            "benchmark": f"ESTIMATE: at {share:g} of peak",
            "ratio": round(GOAL * share / (fast + slow), 3),
            "goal": 1.0,
            **{name: round(value / share, 1) for name, value in minutes.items()},
            **peaks,
        }
    least = {"ratio": round((fast + slow) / GOAL, 3), "goal": None}
    yield {"benchmark": f"ESTIMATE: share that {GOAL:g} minutes ask for", **least, **peaks}


def told(found: Found) -> str:
    """The number behind a ratio, in words."""
    if "cpu_ms" in found:
        return f"{found['cpu_ms']} ms of CPU, {found['precision']}"
    if "gflops" in found:
        return f"of {found['gflops']} GFLOP/s, {found['precision']}"
    if "row_equivalents" in found:
        return f"{found['rows']:,} rows, as {found['row_equivalents']:,}"
    if "minutes" in found:
        parts = f"{found['minutes_bf16']} in bf16, {found['minutes_fp32']} in fp32"
        return f"{found['minutes']} minutes: {parts}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="another, of the same network and data")
    parser.add_argument(
        "--peak",
        type=float,
        nargs=2,
        default=(989.0, 67.0),
        metavar=("BF16", "FP32"),
        help="of the device, in TFLOP/s, without sparsity; default: an H100's",
    )
    parser.add_argument(
        "--share", type=float, nargs="+", default=(0.1, 0.05), help="of peak that is reached, guessed"
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    keep_freed_memory()  # as the command line does
    if not asked.json:
        print(f"{'benchmark':<44}{'ratio':>7}{'goal':>6}")
    for found in measure(asked):
        goal = "" if found["goal"] is None else found["goal"]
        line = f"{found['benchmark']:<44}{found['ratio']:>7}{goal:>6}   {told(found)}"
        print(json.dumps(found) if asked.json else line.rstrip(), flush=True)


if __name__ == "__main__":
    main()
