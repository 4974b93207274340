"""Which banks the scheduler has to tell apart: banks that every placement treats alike are one resource."""

from moe_passes.tasks.problem import StaticPlan


def bank_groups(plan: StaticPlan, banks: int) -> list[int]:
    """Number the groups of banks that no placement tells apart, in the order of their first bank: [bank]."""
    columns: list[list[tuple[int, int, int]]] = [[] for _ in range(banks)]
    for row, layer in enumerate(plan.layers):
        for expert, copies in enumerate(layer.replicas):
            for replica, copy in enumerate(copies):
                for bank in copy if len(copy) < banks else ():
                    columns[bank].append((row, expert, replica))
    numbers: dict[tuple[tuple[int, int, int], ...], int] = {}
    return [numbers.setdefault(tuple(column), len(numbers)) for column in columns]


def group_name(banks: list[int]) -> str:
    """Name a group: banks0-15, or banks0,4-5 where its banks are not neighbours."""
    runs: list[list[int]] = []
    for bank in banks:
        if runs and runs[-1][-1] == bank - 1:
            runs[-1].append(bank)
        else:
            runs.append([bank])
    return "banks" + ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
