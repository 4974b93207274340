"""Independent check of a select-draft solution: capacity, and that it is one of the offered choices."""

from moe_passes.select_draft.problem import Problem, Solution


def violations(problem: Problem, solution: Solution) -> list[str]:
    """Return everything that is wrong with a solution; empty if it is valid."""
    choice, wrong = solution.choice, []
    if choice.slice not in problem.slices:
        wrong.append(f"slice {choice.slice} was not offered")
    if choice.staging_bytes not in problem.staging_choices:
        wrong.append(f"staging of {choice.staging_bytes} bytes was not offered")
    if choice.length not in problem.allowed:
        wrong.append(f"draft length {choice.length} was not offered")
    if choice.resident.shape != problem.popularity.shape:
        wrong.append(f"residents have shape {choice.resident.shape}")
    taken = int(choice.resident.sum()) * choice.slice.resident_bytes + choice.staging_bytes
    if taken > problem.capacity_bytes:
        wrong.append(f"{taken} bytes taken of {problem.capacity_bytes}")
    if not solution.lower_bound <= solution.seconds_per_token <= solution.greedy * (1 + 1e-12):
        wrong.append("bound ≤ objective ≤ greedy does not hold")
    return wrong
