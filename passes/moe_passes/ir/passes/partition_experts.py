"""partition-experts: over how many banks each resident expert is sharded, in how many replicas, and where."""

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from moe_passes.instrumentation import solver_call
from moe_passes.ir.base import Context, Pass, option
from moe_passes.ir.module import expert_stores, only, residency_of, write_placement, write_records
from moe_passes.ir.states import Drafted, Placed
from moe_passes.plan.decisions import DraftPlan
from moe_passes.plan.errors import InfeasibleError
from moe_passes.plan.model import ModelShape
from moe_passes.plan.request import Request
from moe_passes.solve.placement.check import violations
from moe_passes.solve.placement.prepare import prepare
from moe_passes.solve.placement.problem import Problem, Solution
from moe_passes.solve.placement.solver import place_baseline, record, solve
from moe_passes.solve.placement.step_time import chosen_replicas

WORK = 16_000_000
"""Table cells that the search of a layer may price: a fraction of a second, `moec partition` takes more."""
SEARCH = "search"


@dataclass(frozen=True)
class PartitionExperts(Pass):
    """Shard, replicate and place resident experts over the banks."""

    name: ClassVar = "partition-experts"
    needs: ClassVar = (Drafted,)
    gives: ClassVar = (Placed,)

    placer: str = option(SEARCH, "NAME", "search (default), or a baseline: contiguous, lpt, eplb, shard-4, …")

    def run(self, module: ir.Module, context: Context) -> None:
        """Place the resident experts of every layer.

        Raises:
            InputError: the baseline does not exist.
            InfeasibleError: it does not fit the banks.
        """
        request, plan = only(module, Request, self.name), only(module, DraftPlan, self.name)
        stores, hidden = expert_stores(module, self.name), only(module, ModelShape, self.name).hidden
        layers = [(store[1], residency_of(store, self.name)) for store in stores]
        problem = prepare(context.cost(module), request.batch, hidden, plan, layers, context.trace(module))
        with solver_call(self.name, "all layers"):
            solution = self._solve(problem, request.seed)
        wrong = violations(problem, solution, chosen_replicas)
        if wrong:
            raise AssertionError(f"{self.name}: " + "; ".join(wrong))
        write_placement(module, stores, [placement.replicas for placement in solution.layers])
        records = [record(layer.name, p, request.seed) for (layer, _), p in zip(layers, solution.layers, strict=True)]
        write_records(module, self.name, records)

    def _solve(self, problem: Problem, seed: int) -> Solution:
        if self.placer == SEARCH:
            return solve(problem, seed, work=WORK)
        solution = place_baseline(problem, self.placer)
        if solution is None:
            raise InfeasibleError(
                f"{self.name}: placer '{self.placer}' does not fit the resident experts into the banks; valid: search"
            )
        return solution
