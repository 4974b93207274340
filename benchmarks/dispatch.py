"""Microseconds that replica dispatch takes for a step of a layer with 64 experts on 32 banks; prints JSON.

python benchmarks/dispatch.py
"""

import argparse
import json
import time

import numpy as np
from moe_passes.solve.replica.dispatcher import Dispatcher

EXPERTS, BANKS, LAYERS, STEPS = 64, 32, 20, 20
ACTIVE = (8, 16, 32, 64)


def layer(kind: str, random: np.random.Generator) -> list[tuple[tuple[int, ...], ...]]:
    """Random replicas: every expert or every fourth with a choice of two, whole or over four banks."""
    width, step = 4 if "sharded" in kind else 1, 1 if "any" in kind else 4
    placed = []
    for expert in range(EXPERTS):
        copies = 2 if "all" in kind or expert % 4 == 0 else 1
        firsts = range(0, BANKS - width + 1, step if width > 1 else 1)
        starts = random.choice(firsts, size=copies, replace=False)
        placed.append(tuple(tuple(range(start, start + width)) for start in starts.tolist()))
    return placed


def measure(kind: str, active: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    seconds, over = [], []
    for _ in range(LAYERS):
        dispatcher = Dispatcher(BANKS, layer(kind, random), [1.0] * EXPERTS)
        for _ in range(STEPS):
            experts = sorted(random.choice(EXPERTS, size=active, replace=False).tolist())
            start = time.perf_counter()
            chosen = dispatcher.choose(experts)
            seconds.append(time.perf_counter() - start)
            over.append(dispatcher.busiest(experts, chosen) / dispatcher.lower_bound(experts) - 1)
    return {
        "mean_microseconds": float(np.mean(seconds) * 1e6),
        "p99_microseconds": float(np.percentile(seconds, 99) * 1e6),
        "mean_above_bound": float(np.mean(over)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    kinds = ("whole, a quarter with two replicas", "whole, all with two replicas",
             "sharded, a quarter with two replicas", "sharded, all with two replicas",
             "sharded over any four neighbours, a quarter with two replicas",
             "sharded over any four neighbours, all with two replicas")  # fmt: skip
    result = {kind: {str(active): measure(kind, active) for active in ACTIVE} for kind in kinds}
    print(json.dumps({"experts": EXPERTS, "banks": BANKS, "active": result}, indent=1))


if __name__ == "__main__":
    main()
