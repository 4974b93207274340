"""Give buffers fixed addresses: no torch, no MLIR (`pip install ./passes`).

    python examples/solvers/allocation.py

Four buffers in 1,000 bytes; a lifetime is [start, end).
"""

from moe_passes.solve.allocation import Lifetime, Problem, solve, violations

problem = Problem(
    capacity_bytes=1000,
    buffers=(Lifetime(0, 4, 600), Lifetime(0, 2, 400), Lifetime(2, 6, 300), Lifetime(4, 8, 500)),
    alignment_bytes=1,
)

solution = solve(problem, seed=0)

assert not violations(problem, solution.offsets)
print(f"{solution.status}: offsets {solution.offsets}, peak {solution.peak_bytes} bytes")
