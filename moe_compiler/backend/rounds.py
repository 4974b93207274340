"""held_out.json, made from held-out rounds as they were run."""

from moe_passes.plan.decisions import SolverRecord
from moe_passes.plan.round import KINDS

from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.held_out import HeldOutDocument, HeldOutRound, Tasks, WastedLoad
from moe_compiler.evaluate.held_out import Executed, HeldOut


def held_out_document(held_out: HeldOut, cost: CostDocument) -> HeldOutDocument:
    """Return held_out.json."""
    return HeldOutDocument(
        model=cost.model,
        target=cost.target,
        profile=cost.profile.name,
        draft_length=cost.draft.length,
        kinds=list(KINDS),
        rounds=[_round(run, known) for run, known in zip(held_out.executed, held_out.solvers, strict=True)],
    )


def _round(run: Executed, known: SolverRecord) -> HeldOutRound:
    return HeldOutRound(
        seconds=run.schedule.makespan(run.problem) * 1e-9,
        lower_bound_seconds=known.lower_bound,
        clairvoyant_seconds=known.objective,
        greedy_seconds=known.greedy,
        limit=known.limit,
        wasted=[_wasted(run, number) for number in run.wasted],
        tasks=_tasks(run),
    )


def _wasted(run: Executed, number: int) -> WastedLoad:
    work, start = run.work[number], run.schedule.starts[number]
    return WastedLoad(
        layer=work.layer,
        expert=work.expert,
        bytes=work.traffic.external_read_bytes,
        start_seconds=start * 1e-9,
        seconds=(run.schedule.end(run.problem, number) - start) * 1e-9,
    )


def _tasks(run: Executed) -> Tasks:
    starts = list(run.schedule.starts)
    return Tasks(
        kind=[KINDS.index(work.kind) for work in run.work],
        step=[work.step for work in run.work],
        layer=[work.layer for work in run.work],
        expert=[work.expert for work in run.work],
        start_ns=starts,
        duration_ns=[run.schedule.end(run.problem, number) - start for number, start in enumerate(starts)],
    )
