"""allocate-staging: byte addresses of all that is staged."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.instrumentation import solver_call
from moe_passes.ir.base import Context, Pass
from moe_passes.ir.module import only, write_records
from moe_passes.ir.round import Round, read_round, write_offsets
from moe_passes.ir.states import Addressed, Scheduled, Steady, Tasks
from moe_passes.plan.errors import infeasible
from moe_passes.plan.request import Request
from moe_passes.solve.allocation.check import violations
from moe_passes.solve.allocation.problem import Lifetime, Problem
from moe_passes.solve.allocation.solver import record, solve


@dataclass(frozen=True)
class AllocateStaging(Pass):
    """Give every staged slice an address."""

    name: ClassVar = "allocate-staging"
    needs: ClassVar = (Tasks, Scheduled)
    gives: ClassVar = (Addressed,)
    drops: ClassVar = (Steady,)
    again: ClassVar = True

    def run(self, module: ir.Module, context: Context) -> None:
        """Allocate staging.

        Raises:
            InfeasibleError: no allocation was found.
        """
        request, round_ = only(module, Request, self.name), read_round(module, self.name)
        if not round_.buffer_ops:
            return
        problem = self.lifetimes(round_)
        with solver_call(self.name, "peak of staging"):
            solution = solve(problem, request.seed)
        if solution.status in ("infeasible", "unknown"):
            raise infeasible(
                f"the schedule's staged slices ({solution.lower_bound_bytes:,} bytes alive at once, fragmented)",
                "hb (staging)",
                solution.peak_bytes,
                problem.capacity_bytes,
                ["a larger memories.hb.staging_gb", "a smaller --batch or --draft-length"],
            )
        wrong = violations(problem, solution.offsets)
        if wrong:
            raise AssertionError(f"{self.name}: " + "; ".join(wrong[:5]))
        write_offsets(round_, solution.offsets)
        write_records(module, self.name, [record(solution, request.seed)])

    def lifetimes(self, round_: Round) -> Problem:
        """Turn the schedule's buffers into lifetimes."""
        schedule, problem = round_.schedule(self.name), round_.problem
        buffers = tuple(
            Lifetime(schedule.starts[b.first], schedule.end(problem, b.last), b.amount) for b in problem.buffers
        )
        return Problem(problem.capacities[problem.buffers[0].resource], buffers)
