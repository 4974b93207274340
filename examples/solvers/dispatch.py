"""Choose how a round is dispatched that becomes known only as it runs: no torch, no MLIR (`pip install ./passes`).

    python examples/solvers/dispatch.py

A draft of 6, then a router of 1 that says which of four experts are needed. Each takes a load of 5 and 2 to compute.
Loads may start before the router has run, on a guess; a wrong one is dropped, or was for nothing.
"""

from moe_passes.plan.decisions import DispatchPlan
from moe_passes.routing.likelihood import table
from moe_passes.solve.dispatch import Guess, Unknown, dispatch, mean_makespan, nothing_ahead, solve
from moe_passes.solve.rcpsp import Buffer, Mode, Problem, Task

CHANNEL, ELEMENT, BUFFER = range(3)
ROUTER, START = 1, -1
LIKELY = (950, 900, 400, 100)
"""In how many of 1,000 rounds each expert is needed."""


def round_of(needed: set[int], plan: DispatchPlan) -> Unknown:
    """Return a round in which these experts are needed, and what a plan loads ahead of the router."""
    tasks = [Task((Mode(6, ((ELEMENT, 1),)),)), Task((Mode(1, ((ELEMENT, 1),)),), (0,))]
    buffers, guesses = [], []
    for expert, likelihood in enumerate(LIKELY):
        is_ahead, load = likelihood >= plan.least_permille, len(tasks)
        if not is_ahead and expert not in needed:
            continue
        tasks.append(Task((Mode(5, ((CHANNEL, 1),)),), () if is_ahead else (ROUTER,)))
        if expert in needed:
            tasks.append(Task((Mode(2, ((ELEMENT, 1),)),), (ROUTER, load)))
        buffers.append(Buffer(BUFFER, 1, load, len(tasks) - 1))
        if is_ahead:
            guesses.append(Guess(load, ROUTER, expert in needed, ((START, likelihood),)))
    problem = Problem((1, 1, 4), ("channel", "element", "buffer"), tuple(tasks), tuple(buffers))
    return Unknown(problem, tuple(guesses))


def rounds(plan: DispatchPlan) -> list[Unknown]:
    """Return the training rounds as a plan meets them."""
    return [round_of(needed, plan) for needed in ({0, 1}, {0}, {0, 1, 2}, {1, 3})]


plan, late = solve(table(), rounds), nothing_ahead(table())

wrong = sum(len(dispatch(unknown, plan).dropped) for unknown in rounds(plan))
print(
    f"ahead: what at least {plan.least_permille} of 1,000 rounds need, order {plan.order}, engine {plan.engine}: "
    f"{mean_makespan(rounds(plan), plan):.1f} a round, {mean_makespan(rounds(late), late):.1f} with nothing ahead; "
    f"{wrong} loads dropped in {len(rounds(plan))} rounds"
)
