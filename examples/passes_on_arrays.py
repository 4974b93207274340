"""Use three passes on plain arrays: no torch, no MLIR (`pip install ./passes`).

    python examples/passes_on_arrays.py

Places 16 experts in 8 banks for a made-up routing trace, schedules loads against computation, and gives addresses to
a few staged buffers.
"""

import numpy as np
from moe_passes.plan.round import Buffer, Mode, Task
from moe_passes.solve.allocation import check as allocation_check
from moe_passes.solve.allocation.problem import Lifetime
from moe_passes.solve.allocation.problem import Problem as Allocation
from moe_passes.solve.allocation.solve import solve as allocate
from moe_passes.solve.placement import check as placement_check
from moe_passes.solve.placement.problem import Layer, Rates
from moe_passes.solve.placement.problem import Problem as Placement
from moe_passes.solve.placement.solve import solve as place
from moe_passes.solve.placement.step_time import chosen_replicas
from moe_passes.solve.rcpsp import check as schedule_check
from moe_passes.solve.rcpsp.problem import Budget
from moe_passes.solve.rcpsp.problem import Problem as Round
from moe_passes.solve.rcpsp.solve import solve as schedule


def placement() -> None:
    """Place 16 experts of 4 MB over 8 banks of 51.2 GB/s, for 64 steps of 8 tokens that use 2 experts each."""
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
    problem = Placement(rates, (layer,))
    solution = place(problem, seed=0)
    assert not placement_check.violations(problem, solution, chosen_replicas)
    print(
        f"partition-experts: {solution.objective * 1e6:.1f} µs a step, bound {solution.lower_bound * 1e6:.1f} µs, "
        f"greedy {solution.layers[0].greedy * 1e6:.1f} µs; expert 0 in banks {solution.layers[0].replicas[0]}"
    )


def loads() -> None:
    """Schedule three layers: a router, then four experts of 2, each after a load of 3 into a buffer of two slots."""
    channel, element, buffer = 0, 1, 2
    tasks: list[Task] = []
    buffers: list[Buffer] = []
    last: tuple[int, ...] = ()
    for _ in range(3):
        router = len(tasks)
        tasks.append(Task((Mode(1, ((element, 1),)),), last))
        for _ in range(4):
            load = len(tasks)
            tasks.append(Task((Mode(3, ((channel, 1),)),)))
            tasks.append(Task((Mode(2, ((element, 1),)),), (router, load)))
            buffers.append(Buffer(buffer, 1, load, load + 1))
        last = tuple(range(router + 2, len(tasks), 2))
    problem = Round((1, 1, 2), ("channel", "element", "buffer"), tuple(tasks), tuple(buffers))
    answer = schedule(problem, Budget(seconds=2.0))
    assert answer.schedule is not None
    assert not schedule_check.violations(problem, answer.schedule)
    print(
        f"schedule-round: {answer.status}, {answer.schedule.makespan(problem)} for {len(tasks)} tasks, "
        f"bound {answer.lower_bound}, best list rule {answer.greedy}"
    )


def staging() -> None:
    """Give four buffers fixed addresses in 1,000 bytes; lifetimes are half-open."""
    problem = Allocation(
        capacity_bytes=1000,
        buffers=(Lifetime(0, 4, 600), Lifetime(0, 2, 400), Lifetime(2, 6, 300), Lifetime(4, 8, 500)),
        alignment_bytes=1,
    )
    solution = allocate(problem, seed=0)
    assert not allocation_check.violations(problem, solution.offsets)
    print(f"allocate-staging: {solution.status}, offsets {solution.offsets}, peak {solution.peak_bytes} bytes")


def main() -> None:
    """Run all three."""
    placement()
    loads()
    staging()


if __name__ == "__main__":
    main()
