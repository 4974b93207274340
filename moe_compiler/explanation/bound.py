"""Why it cannot be faster, and which knob moves it."""

from collections import Counter

from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.explanation.words import seconds

LIMITING = 0.5
"""Of a round: a resource that is busy for less of it limits nothing."""
MEANINGS = {
    "critical path": "the longest chain of tasks that need each other's results",
    "layer by layer": "layer after layer, what each has to wait for on {resource}, added up",
    "one at a time": "the tasks that {resource} takes one at a time",
    "buffer": "what {resource} has room for before it is used up",
    "work": "the work of {resource}, however it is arranged",
}
"""What the kinds of bounds of `moe_passes.solve.rcpsp.bound` rest on."""


def meaning(limit: str) -> str:
    """Word what a bound rests on."""
    kind, _, resource = limit.partition(": ")
    return MEANINGS[kind].format(resource=resource) if kind in MEANINGS else limit or "what is not on record"


def explain_bound(of: CompiledFolder) -> Explanation:
    """Say how near the result is to what is possible, what that rests on, and what would move it."""
    cost, solvers = of.cost, of.plan.solvers
    limits = Counter(round_.limit for round_ in of.held_out.rounds)
    most, count = limits.most_common(1)[0] if limits else ("", 0)
    ranked = sorted(cost.roofline_seconds.items(), key=lambda pair: -pair[1])
    (limited_by, most_seconds), second = ranked[0], ranked[1] if len(ranked) > 1 else ("nothing else", 0.0)
    has_knob = cost.roofline_fraction >= LIMITING
    draft = next((s for s in solvers if s.pass_name == "select-draft"), None)
    figures = {
        "round_seconds": cost.round.seconds,
        "lower_bound_seconds": cost.round.lower_bound_seconds,
        "gap": cost.round.gap,
        "limits": dict(limits.most_common()),
        "active": most,
        "training_round_limit": next((s.limit for s in solvers if s.pass_name == "schedule-round"), ""),
        "draft_limit": draft.limit if draft else "",
        "roofline_seconds": dict(ranked),
        "limited_by": cost.limited_by,
        "knob": cost.limited_by_field if has_knob else None,
        "doubled_seconds": max(most_seconds / 2, second[1]),
    }
    sentences = [
        f"A held-out round takes {seconds(cost.round.seconds)}; no schedule of these rounds, known in advance, "
        f"takes less than {seconds(cost.round.lower_bound_seconds)} on the mean, so better scheduling can gain at "
        f"most {cost.round.gap:.1%}.",
        f"In {count} of {len(of.held_out.rounds)} rounds that bound rests on {meaning(most)}.",
        f"If nothing ever waited, {limited_by} alone would need {seconds(most_seconds)} "
        f"({cost.roofline_fraction:.0%} of the round), then {second[0]} {seconds(second[1])}.",
    ]
    if has_knob:
        sentences.append(
            f"The knob is {cost.limited_by_field}: twice as much of it takes that down to "
            f"{seconds(most_seconds / 2)}, and then {'it still' if most_seconds / 2 >= second[1] else second[0]} "
            f"limits (`--why-not {cost.limited_by_field}=VALUE` compiles it)."
        )
    else:
        sentences.append(
            "So no bandwidth and no rate of computing is the knob: the rest is what tasks take however little they "
            "move (latencies, and the overheads of a step, a layer and an expert in the hardware file), one after "
            f"another; twice {cost.limited_by_field} saves at most {seconds(most_seconds / 2)} of "
            f"{seconds(cost.round.seconds)}."
        )
    if draft:
        sentences.append(
            f"What is kept and drafted: {seconds(draft.objective)} a token where rounds are judged; the bound over "
            f"every setting is {seconds(draft.lower_bound)} ({draft.limit or 'on what is not on record'}), "
            f"{draft.gap:.0%} less, and looser: it supposes the best experts of each round."
        )
    return Explanation(question="Why can it not be faster?", sentences=sentences, figures=figures)
