"""Independent check of a schedule: precedence, release, deadlines, resources, buffers. Shares no code with solvers."""

from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp.problem import Problem


def violations(problem: Problem, schedule: Schedule) -> list[str]:
    """Return everything that is wrong with a schedule; empty if it is valid."""
    if len(schedule.starts) != len(problem.tasks) or len(schedule.modes) != len(problem.tasks):
        return [f"{len(schedule.starts)} start times for {len(problem.tasks)} tasks"]
    wrong = []
    ends = []
    for n, task in enumerate(problem.tasks):
        if not 0 <= schedule.modes[n] < len(task.modes):
            return [f"task {n}: mode {schedule.modes[n]} does not exist"]
        ends.append(schedule.starts[n] + task.modes[schedule.modes[n]].duration)
        if schedule.starts[n] < task.release:
            wrong.append(f"task {n} starts at {schedule.starts[n]}, before its release {task.release}")
        if task.deadline is not None and ends[n] > task.deadline:
            wrong.append(f"task {n} ends at {ends[n]}, after its deadline {task.deadline}")
    for n, task in enumerate(problem.tasks):
        for before in task.after:
            if ends[before] > schedule.starts[n]:
                wrong.append(f"task {n} starts at {schedule.starts[n]}, before task {before} ends at {ends[before]}")
    changes: dict[int, list[tuple[int, int]]] = {}
    for n, task in enumerate(problem.tasks):
        for resource, amount in task.modes[schedule.modes[n]].uses:
            if ends[n] > schedule.starts[n]:
                changes.setdefault(resource, []).extend([(schedule.starts[n], amount), (ends[n], -amount)])
    for buffer in problem.buffers:
        held = (schedule.starts[buffer.first], ends[buffer.last])
        if held[1] < held[0]:
            wrong.append(f"task {buffer.last} ends before task {buffer.first}, whose buffer it closes, starts")
        elif held[1] > held[0]:
            changes.setdefault(buffer.resource, []).extend([(held[0], buffer.amount), (held[1], -buffer.amount)])
    for resource, steps in changes.items():
        used = 0
        for time, amount in sorted(steps):
            used += amount
            if used > problem.capacities[resource]:
                name = problem.names[resource]
                wrong.append(f"'{name}' is used {used} of {problem.capacities[resource]} at {time}")
                break
    return wrong
