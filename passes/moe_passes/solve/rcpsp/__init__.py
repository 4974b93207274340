"""When every task of a round runs: `solve` schedules a problem, `violations` checks a schedule."""

from moe_passes.plan.round import Buffer, Mode, Schedule, Task
from moe_passes.solve.rcpsp.check import violations
from moe_passes.solve.rcpsp.problem import Answer, Budget, Problem
from moe_passes.solve.rcpsp.solver import solve

__all__ = ["Answer", "Budget", "Buffer", "Mode", "Problem", "Schedule", "Task", "solve", "violations"]
