"""Schedule tasks on shared resources and a buffer: no torch, no MLIR (`pip install ./passes`).

    python examples/solvers/rcpsp.py

Three layers: a router of 1, then four experts of 2, each after a load of 3 over one channel into a buffer of two slots.
"""

from moe_passes.solve.rcpsp import Budget, Buffer, Mode, Problem, Task, solve, violations

CHANNEL, ELEMENT, BUFFER = range(3)
tasks: list[Task] = []
buffers: list[Buffer] = []
last: tuple[int, ...] = ()
for _ in range(3):
    router = len(tasks)
    tasks.append(Task((Mode(1, ((ELEMENT, 1),)),), last))
    for _ in range(4):
        load = len(tasks)
        tasks.append(Task((Mode(3, ((CHANNEL, 1),)),)))
        tasks.append(Task((Mode(2, ((ELEMENT, 1),)),), (router, load)))
        buffers.append(Buffer(BUFFER, 1, load, load + 1))
    last = tuple(range(router + 2, len(tasks), 2))
problem = Problem((1, 1, 2), ("channel", "element", "buffer"), tuple(tasks), tuple(buffers))

answer = solve(problem, Budget(seconds=2.0))

assert answer.schedule is not None
assert not violations(problem, answer.schedule)
print(
    f"{answer.status}: {answer.schedule.makespan(problem)} for {len(tasks)} tasks, bound {answer.lower_bound}, "
    f"best list rule {answer.greedy}"
)
