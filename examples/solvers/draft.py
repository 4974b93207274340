"""Choose residents, their bits and the draft length: no torch, no MLIR (`pip install ./passes`).

    python examples/solvers/draft.py

Two layers of 8 experts of 100 bytes, 2 a token; 900 bytes hold residents and staging. Routing is made up (seed 0).
"""

import numpy as np
from moe_passes.plan.acceptance import Acceptance, Curve
from moe_passes.plan.decisions import FROZEN
from moe_passes.solve.draft import Choice, Problem, Rates, Search, Slice, solve, violations

LAYERS, EXPERTS, TOP_K, TOKENS = 2, 8, 2, 64
random = np.random.default_rng(0)
liked = random.standard_normal((LAYERS, EXPERTS))
chosen = np.argsort(-liked - random.standard_normal((TOKENS, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K]
popularity = np.stack([np.bincount(chosen[:, layer].ravel(), minlength=EXPERTS) for layer in range(LAYERS)])
problem = Problem(
    batch=1,
    top_k=TOP_K,
    capacity_bytes=900,
    copies_bytes={1: 0},
    slices=(Slice(bits=4, resident_bytes=50, residual_bytes=50), Slice(bits=8, resident_bytes=100, residual_bytes=0)),
    staging_choices=(200,),
    lengths=(0, 1, 2, 4),
    rules=(FROZEN,),
    whole_bytes=100,
    popularity=popularity,
    chosen=chosen,
    asked=chosen,
    acceptance=Acceptance((Curve((0.0, 1.0), (0.0, 0.9)),), 4, 0.5, "made up: α is 0.9 of the coverage"),
    rates=Rates(
        draft_dense_seconds={(8, 1): 1.0},
        verify_dense_seconds={(length, 1): 1.0 + 0.1 * length for length in (0, 1, 2, 4)},
        hb_seconds_per_byte=0.001,
        external_seconds_per_byte=0.02,
        load_latency_seconds=0.01,
        gather_seconds_per_token=0.02,
    ),
)


def judge(choice: Choice) -> float:
    """Return the mean seconds of a round: here the closed form's, in earnest those of your simulator or machine."""
    return Search(problem).estimate_choice(choice).estimate_seconds


solution = solve(problem, judge)

assert not violations(problem, solution)
best = solution.best
print(
    f"γ = {best.choice.setting.length}, experts in {best.choice.setting.slice.bits} bits, "
    f"{int((best.choice.levels > 0).sum())} of {LAYERS * EXPERTS} near: {best.seconds_per_token:.3f} s a token, "
    f"bound {solution.lower_bound:.3f}, greedy {solution.greedy:.3f}; "
    f"breaks even at α = {solution.break_even_acceptance:.2f}"
)
