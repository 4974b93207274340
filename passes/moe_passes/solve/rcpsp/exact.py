"""Plain CP-SAT on a whole problem: any resources, buffers and deadlines, for instances that are small enough.

Where deadlines cannot be met, the smallest set of them that
contradict is found by implicit hitting sets (Ignatiev, Previti, Liffiton, Marques-Silva, "Smallest MUS extraction with
minimal hitting set dualization", CP 2015): a smallest set that meets every known correction set (deadlines of which
one must be given up) is either a contradiction, and then there is no smaller one, or can be met, and then what has to
be given up beside it is another correction set.
"""

from dataclasses import replace

from ortools.sat.python import cp_model

from moe_passes.plan.round import Schedule
from moe_passes.solve.rcpsp.model import WholeModel, horizon, run
from moe_passes.solve.rcpsp.problem import Budget, Problem

MOST_CORRECTIONS = 200
CONFLICT_SECONDS = 5.0
"""Deterministic, for each question about a set of deadlines."""


def search(problem: Problem, best: Schedule | None, bound: int, budget: Budget) -> tuple[str, Schedule | None, int]:
    """Search a whole problem.

    Args:
        problem: what to schedule.
        best: a schedule to start from.
        bound: a lower bound.
        budget: what it may cost.

    Returns:
        Status, the best schedule (None if there is none, or none was found), and the best lower bound.
    """
    # Of a problem without any schedule, every bound is true, also one beyond the horizon.
    bound = min(bound, horizon(problem))
    whole = WholeModel(problem, bound, best)
    whole.require(range(len(problem.tasks)))
    whole.model.minimize(whole.makespan)
    status, solver, _ = run(whole.model, budget)
    if status == cp_model.INFEASIBLE:
        return "infeasible", None, bound
    if status != cp_model.UNKNOWN:
        bound = max(bound, round(solver.best_objective_bound))
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = whole.schedule(solver)
        if best is None or found.makespan(problem) < best.makespan(problem):
            best = found
    if best is None:
        return "unknown", None, bound
    bound = min(bound, best.makespan(problem))
    return "optimal" if best.makespan(problem) == bound else "feasible", best, bound


def conflict(problem: Problem, budget: Budget) -> tuple[tuple[int, ...], bool]:
    """Return the smallest set of tasks whose deadlines contradict, or a set that does, and which of both."""
    due = [number for number, task in enumerate(problem.tasks) if task.deadline is not None]
    corrections: list[list[int]] = []
    question = replace(budget, seconds=min(CONFLICT_SECONDS, budget.seconds))
    spent = 0.0
    while spent < budget.seconds and len(corrections) < MOST_CORRECTIONS:
        chosen, choosing = _smallest_hitting_set(due, corrections, question)
        model = WholeModel(problem, 0, None)
        met = model.require_if(due)
        for number in chosen:
            model.model.add(met[number] == 1)
        model.model.maximize(sum(met.values()))
        status, solver, used = run(model.model, question)
        spent += choosing + used
        if status == cp_model.INFEASIBLE:
            return tuple(chosen), True
        if status == cp_model.UNKNOWN:
            break
        corrections.append([number for number in due if not solver.value(met[number])])
    return tuple(due), False


def _smallest_hitting_set(elements: list[int], sets: list[list[int]], budget: Budget) -> tuple[list[int], float]:
    """Return the elements, and the seconds that it took; all elements where there was no time to choose."""
    model = cp_model.CpModel()
    picks = {element: model.new_bool_var("") for element in elements}
    for members in sets:
        model.add_bool_or([picks[element] for element in members])
    model.minimize(sum(picks.values()))
    status, solver, used = run(model, budget)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return elements, used
    return [element for element in elements if solver.value(picks[element])], used
