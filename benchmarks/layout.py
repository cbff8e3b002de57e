"""What channels-last buys: a training update of small-cnn in either memory layout, in turns in one process.

Run it with ``python benchmarks/layout.py [--json]``. The ratio is the median over rounds of contiguous time
to channels-last time, so above 1 channels-last pays. One thread, CPU time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch
from torch.nn import functional

import secateur as sc

CASES = (("8 x 8, width 12", 8, 1, 12), ("32 x 32, width 16", 32, 3, 16))
ROUNDS, UPDATES, BATCH = 9, 10, 64


def update(layout: torch.memory_format, size: int, channels: int, width: int) -> float:
    """CPU seconds of one update."""
    model = sc.zoo.small_cnn(channels=channels, width=width).to(memory_format=layout).train()
    x = torch.rand(BATCH, channels, size, size).contiguous(memory_format=layout)
    y = torch.arange(BATCH) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    began = time.process_time()
    for _ in range(UPDATES):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return (time.process_time() - began) / UPDATES


def main() -> None:
    layouts = torch.contiguous_format, torch.channels_last
    with sc.Run(threads=1).steady():
        for name, *shape in CASES:
            times = [[update(layout, *shape) for layout in layouts] for _ in range(ROUNDS + 1)][1:]
            ratio = round(statistics.median(a / b for a, b in times), 3)
            found = {"benchmark": f"layout: {name}", "ratio": ratio, "goal": 1.0}
            print(json.dumps(found) if "--json" in sys.argv else f"{found['benchmark']:<32}{ratio:>8.3f}")


if __name__ == "__main__":
    main()
