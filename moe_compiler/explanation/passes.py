"""What each pass decided, and the IR around it."""

from collections import Counter
from collections.abc import Callable, Iterator

from moe_passes.plan.decisions import MOST_FAR_TOKENS
from moe_passes.plan.errors import InputError
from moe_passes.plan.names import nearest

from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder, read_snapshot
from moe_compiler.documents.plan import Solver
from moe_compiler.explanation.ir_diff import changes, shortened
from moe_compiler.explanation.words import figure, needed_in, seconds, size

MOST_LINES = 40
"""Of a difference that is shown."""


def explain_pass(of: CompiledFolder, name: str) -> Explanation:
    """Say what a pass decided, its bound, gap and seconds, and show the lines of IR that it changed.

    Raises:
        InputError: the compile has no such pass.
    """
    names = [found for found, _ in of.snapshots]
    if name not in names[1:]:
        raise InputError(f"--pass {name[:60]}: the compile has no snapshot of it{nearest(name, names[1:])}")
    place = names.index(name, 1)
    changed = changes(*(read_snapshot(of.snapshots[at][1]) for at in (place - 1, place)))
    pairs = (zip("-+", shortened(change), strict=True) for change in changed)
    lines = [f"{sign} {line}" for pair in pairs for sign, line in pair if line is not None]
    figures = {
        "before": of.snapshots[place - 1][1].name,
        "after": of.snapshots[place][1].name,
        "seconds": _seconds(of, name),
        "solvers": [solver.content() for solver in _solvers(of, name)],
        "added_lines": sum(change.before is None for change in changed),
        "removed_lines": sum(change.after is None for change in changed),
        "changed_lines": sum(None not in change for change in changed),
        "changes": lines[:MOST_LINES],
    }
    sentences = [
        *account(of, name),
        f"It added {figures['added_lines']} lines of IR, changed {figures['changed_lines']} and took away "
        f"{figures['removed_lines']}, from ir/{figures['before']} to ir/{figures['after']}"
        + (f"; the first {MOST_LINES}:" if len(lines) > MOST_LINES else ":" if lines else "."),
    ]
    return Explanation(question=f"What did {name} do?", sentences=sentences, figures=figures)


def account(of: CompiledFolder, name: str) -> list[str]:
    """Say in short what a pass decided, with bound, gap and seconds."""
    said = (
        list(DECIDED[name](of))
        if name in DECIDED
        else ["It is not one of ours, so nothing is known of what it decided."]
    )
    taken = _seconds(of, name)
    solvers = _solvers(of, name)
    if len(solvers) > 3:
        worst = max(solvers, key=lambda solver: solver.gap)
        optimal = sum(solver.status == "optimal" for solver in solvers)
        said.append(
            f"Of {len(solvers)} solver calls {optimal} are proved optimal; the widest gap is {worst.gap:.1%} "
            f"({worst.instance})."
        )
    else:
        said += [_solver(solver) for solver in solvers]
    return said + ([f"It took {taken:.2f} s of the compile."] if taken is not None else [])


def _solver(solver: Solver) -> str:
    value, bound, greedy = (figure(v, solver.unit) for v in (solver.objective, solver.lower_bound, solver.greedy))
    limit = f", which rests on: {solver.limit}" if solver.limit else ""
    return f"{solver.instance}: {value}, {solver.status}; bound {bound} (gap {solver.gap:.1%}){limit}; greedy {greedy}."


def _solvers(of: CompiledFolder, name: str) -> list[Solver]:
    return [solver for solver in of.plan.solvers if solver.pass_name == name]


def _seconds(of: CompiledFolder, name: str) -> float | None:
    return next((step.seconds for step in of.record.steps if step.step == name), None)


def _raised(of: CompiledFolder) -> Iterator[str]:
    layers = of.plan.layers
    yield (
        f"It found {len(layers)} MoE layers of {len(layers[0].residency)} experts each in the traced graph, with "
        f"{of.cost.parameters.total / 1e9:.2f} B parameters in all."
    )


def _drafted(of: CompiledFolder) -> Iterator[str]:
    draft, near = of.cost.draft, of.plan.hb
    levels = Counter(level for layer in of.plan.layers for level in layer.residency)
    yield (
        f"γ = {draft.length}; near are {levels['all']} experts whole, {levels['msb']} as a slice, {levels['none']} "
        f"not at all ({draft.expert_fraction:.1%} of all), with {size(near.staging_bytes)} of staging, "
        f"{size(near.dense_bytes)} of dense weights and {size(near.kv_bytes)} of KV cache beside them."
    )


def _placed(of: CompiledFolder) -> Iterator[str]:
    copies = [copy for layer in of.plan.layers for replicas in layer.placement for copy in replicas]
    several = sum(len(replicas) > 1 for layer in of.plan.layers for replicas in layer.placement)
    shards = Counter(len(copy) for copy in copies)
    common = ", ".join(f"{count} over {width} banks" for width, count in shards.most_common(3))
    yield (
        f"It cut {len(copies)} replicas of near experts over {of.plan.banks} banks ({common or 'none'}); {several} "
        "experts have several replicas."
    )
    records = _solvers(of, "partition-experts")
    now, greedy = sum(r.objective for r in records), sum(r.greedy for r in records)
    if records and greedy:
        change = f"{now / greedy - 1:+.1%} against the greedy baseline"
        yield f"A step's experts take {seconds(now)} in all layers, {change}."


def _dispatched(of: CompiledFolder) -> Iterator[str]:
    plan = of.plan.dispatch
    sure = f"needed in {needed_in(plan.sure_permille)}" if plan.sure_permille <= 1000 else "none"
    asked = (
        f"what the draft asks for, if it is then needed with {plan.least_permille / 10:g} % or more"
        if plan.least_permille <= 1000
        else "nothing that the draft asks for"
    )
    yield f"Loaded from the start of a round: {sure}; loaded while drafting: {asked}; order of loads: {plan.order}."
    if plan.most_far_tokens:
        most = "however many" if plan.most_far_tokens >= MOST_FAR_TOKENS else f"at most {plan.most_far_tokens}"
        yield f"What is not near is computed in the far memory where {most} tokens choose it."


def _lowered(of: CompiledFolder) -> Iterator[str]:
    kinds = Counter(task.kind for task in of.plan.round.tasks)
    counted = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    yield f"The round has {len(of.plan.round.tasks)} tasks: {counted}."


def _scheduled(of: CompiledFolder) -> Iterator[str]:
    round_ = of.cost.training_round
    yield f"The training round takes {seconds(round_.seconds)}, scheduled in advance, in {round_.tasks} tasks."


def _allocated(of: CompiledFolder) -> Iterator[str]:
    staged = of.plan.round.staged
    top = max((held.offset + held.bytes for held in staged), default=0)
    yield f"{len(staged)} staged pieces have addresses up to {size(top)} of the {size(of.plan.hb.staging_bytes)}."


def _steady(of: CompiledFolder) -> Iterator[str]:
    state = of.cost.steady_state
    yield (
        f"Rounds repeat every {seconds(state.period_seconds)}; {state.carried_loads} loads of the next round run in "
        "the tail of this one."
    )


def _verified(of: CompiledFolder) -> Iterator[str]:
    yield "It decides nothing: it worked the whole plan out again and found no contradiction."


DECIDED: dict[str, Callable[[CompiledFolder], Iterator[str]]] = {
    "raise-moe": _raised,
    "select-draft": _drafted,
    "partition-experts": _placed,
    "choose-dispatch": _dispatched,
    "lower-to-tasks": _lowered,
    "schedule-round": _scheduled,
    "allocate-staging": _allocated,
    "steady-state": _steady,
    "verify-plan": _verified,
}
"""What each of our passes decided, in a sentence or two."""
