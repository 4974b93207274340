"""select-draft: which experts HB keeps, in how many bits, how much of it is staging, and γ."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch_mlir import ir

from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.feasibility import Footprint, check_fits, footprint, free_bytes
from moe_passes.instrumentation import solver_call
from moe_passes.ir.accounts import write_account
from moe_passes.ir.base import Context, Pass, option
from moe_passes.ir.module import append, expert_stores, find, only, write_records, write_residency
from moe_passes.ir.phases import read_stages
from moe_passes.ir.restricting import restrict_draft
from moe_passes.ir.states import Drafted, Experts, Phases
from moe_passes.plan.accounts import COVERAGE_FIRST, DraftAccount
from moe_passes.plan.decisions import MSB, NONE, DraftPlan, SolverRecord
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import ModelShape
from moe_passes.plan.phase import MSB_SLICE, WHOLE_SLICE
from moe_passes.plan.request import MeasuredAcceptance, Request
from moe_passes.routing.traces import IntArray, popularity
from moe_passes.solve.draft.check import violations
from moe_passes.solve.draft.prepare import prepare
from moe_passes.solve.draft.problem import Choice, Problem, Solution
from moe_passes.solve.draft.solver import criterion_of, deep_of, knapsack, level_of, record, refill, solve, weighed
from moe_passes.solve.residency import solver as residency
from moe_passes.solve.residency.check import violations as residency_violations
from moe_passes.tasks.judging import Bench
from moe_passes.tasks.stages import parts


@dataclass(frozen=True)
class SelectDraft(Pass):
    """Choose resident experts, slice bits, staging size and draft length."""

    name: ClassVar = "select-draft"
    needs: ClassVar = (Phases, Experts)
    gives: ClassVar = (Drafted,)

    bits: int | None = option(None, "4 or 8", "of an expert that the draft computes with; default: what is faster")

    def run(self, module: ir.Module, context: Context) -> None:
        """Decide residency and the draft plan, and restrict the draft to residents.

        Raises:
            InfeasibleError: the model does not fit the machine.
            InputError: records are missing.
        """
        cost, request = context.cost(module), only(module, Request, self.name)
        stores, (draft, verify) = expert_stores(module, self.name), read_stages(module, self.name)
        of = footprint(only(module, ModelShape, self.name), request, [layer for _, layer in stores], parts(verify))
        check_fits(cost, of)
        measured = tuple(found for _, found in find(module, MeasuredAcceptance))
        problem = prepare(cost, request, of, parts(draft), parts(verify), context.trace(module), measured)
        problem = problem if self.bits is None else _of_bits(problem, self.bits)
        bench = Bench(cost, request, of.model.hidden, of.layers, (draft, verify), problem)
        with solver_call(self.name, "draft plan"):
            solution = solve(problem, bench.seconds, bench.longer_seconds)
        wrong = violations(problem, solution)
        if wrong:
            raise AssertionError(f"{self.name}: " + "; ".join(wrong))
        choice = solution.best.choice
        counts = popularity(context.trace(module))
        levels, records, price = _kept(problem, choice, counts, request.seed)
        deep = deep_of(problem, choice, levels, counts)
        for row, store in enumerate(stores):
            write_residency(store, levels[row], deep[row])
        is_sliced = level_of(choice.setting.slice) == MSB
        restrict_draft(module, MSB_SLICE if is_sliced else WHOLE_SLICE, self.name)
        append(module, _plan(cost, of, problem.acceptance.source, solution, float((levels > NONE).mean())))
        append(module, choice.setting.rule)
        write_records(module, self.name, [record(solution, request.seed), *records])
        criterion = None if price is None else criterion_of(problem, choice.setting, price)
        account = DraftAccount(weighed(solution), criterion, tuple(map(tuple, counts.tolist())))
        write_account(module, self.name, account)


def _of_bits(problem: Problem, bits: int) -> Problem:
    slices = tuple(form for form in problem.slices if form.bits == bits)
    if not slices:
        offered = " or ".join(str(form.bits) for form in problem.slices)
        raise InputError(f"select-draft: option bits={bits}: the weights are of another format; valid: {offered}")
    return replace(problem, slices=slices)


def _kept(
    problem: Problem, choice: Choice, counts: IntArray, seed: int
) -> tuple[IntArray, list[SolverRecord], float | None]:
    """Decide, by all training counts, what HB keeps of each expert: [layer, expert] levels, and what a byte is worth.

    It is worth nothing that is known where a placement was asked for, or every layer keeps as many.
    """
    if problem.place is not None or choice.is_even:
        return refill(problem, choice, counts), [], None
    asked = knapsack(problem, choice.setting, counts)
    solution = residency.solve(asked)
    wrong = residency_violations(asked, solution)
    if wrong:
        raise AssertionError("select-draft: " + "; ".join(wrong))
    unit = "points" if choice.setting.coverage_weight >= COVERAGE_FIRST else "s"
    return solution.levels.reshape(counts.shape), [residency.record(asked, solution, seed, unit)], solution.price


def _plan(cost: CostModel, of: Footprint, source: str, solution: Solution, share: float) -> DraftPlan:
    best, setting = solution.best, solution.best.choice.setting
    kv_bytes = of.kept_kv_bytes(cost.space().banks, setting.kv_banks)
    return DraftPlan(
        length=setting.length,
        bits=setting.slice.bits,
        dense_bits=setting.dense_bits,
        expert_fraction=share,
        acceptance_rate=best.acceptance_rate,
        break_even_acceptance=solution.break_even_acceptance,
        acceptance_source=source,
        staging_bytes=setting.staging_bytes,
        expert_bytes=free_bytes(cost, of) + of.kv_bytes - kv_bytes - setting.staging_bytes,
        dense_bytes=of.dense_bytes,
        kv_bytes=kv_bytes,
        kv_banks=setting.kv_banks,
    )
