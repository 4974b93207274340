"""Place experts in banks: no torch, no MLIR (`pip install ./passes`).

    python examples/solvers/placement.py

16 experts of 4 MB over 8 banks of 51.2 GB/s, for 64 steps of 8 tokens that use 2 experts each (made up, seed 0).
"""

import numpy as np
from moe_passes.solve.placement import Layer, Problem, Rates, chosen_replicas, solve, violations

random = np.random.default_rng(0)
routing = random.random((64, 8, 16)).argsort(axis=2)[:, :, :2]
rates = Rates(
    banks=8,
    bank_capacity_bytes=16_000_000,
    bank_bytes_per_second=51.2e9,
    link_bytes_per_second=1e9,
    external_bytes_per_second=60e9,
    partial_sum_bytes=4096,
)
layer = Layer("layer0", experts=16, msb_bytes=2_000_000, whole_bytes=4_000_000, routing=routing)
problem = Problem(rates, (layer,))

solution = solve(problem, seed=0)

assert not violations(problem, solution, chosen_replicas)
placed = solution.layers[0]
print(
    f"{solution.objective * 1e6:.1f} µs a step, bound {solution.lower_bound * 1e6:.1f} µs, "
    f"greedy {placed.greedy * 1e6:.1f} µs; expert 0 lies in banks {placed.replicas[0]}"
)
