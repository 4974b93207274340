"""Why this γ, and these bits: what select-draft weighed."""

from collections.abc import Sequence

from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.documents.plan import Weighed
from moe_compiler.explanation.words import listed, seconds


def best_by_length(weighed: Sequence[Weighed]) -> dict[int, Weighed]:
    """Return the best of every γ, the greedy baseline left out: what was dispatched before what was only estimated."""
    best: dict[int, Weighed] = {}
    for setting in weighed:
        if setting.role == "greedy":
            continue
        known = best.get(setting.length)
        if known is None or (setting.seconds is not None and setting.seconds < (known.seconds or float("inf"))):
            best[setting.length] = setting
    return dict(sorted(best.items()))


def explain_draft(of: CompiledFolder) -> Explanation:
    """Say why the draft is as long as it is."""
    question, draft, weighed = "Why this draft length?", of.cost.draft, of.plan.weighed
    if not weighed:
        said = [f"γ is {draft.length}; this compile keeps no account of what was weighed. Compile again for one."]
        return Explanation(question=question, sentences=said, figures={"length": draft.length})
    chosen, best = weighed[0], best_by_length(weighed)
    dispatched = [s for s in best.values() if s.seconds is not None and s is not chosen]
    estimated = [s for s in best.values() if s.seconds is None]
    figures = {
        "length": draft.length,
        "seconds": chosen.seconds,
        "by_length": {str(n): {"seconds": s.seconds, "estimate_seconds": s.estimate_seconds} for n, s in best.items()},
        "acceptance_rate": draft.acceptance_rate,
        "break_even_acceptance": draft.break_even_acceptance,
    }
    sentences = [
        f"γ = {chosen.length} takes {seconds(_measured(chosen))} a token on training rounds that chose nothing, "
        f"{_rank(of, weighed)}."
    ]
    if dispatched:
        others = [_against(s, chosen) for s in dispatched]
        sentences.append(f"Tried on the same rounds: {listed(others, 8)}.")
    greedy = next((s for s in weighed if s.role == "greedy"), None)
    if greedy is not None:
        sentences.append(f"The greedy baseline: {_against(greedy, chosen)}.")
    if estimated:
        others = [f"γ = {s.length} {seconds(s.estimate_seconds)}" for s in estimated]
        sentences.append(
            f"Not dispatched; the closed form, which says {seconds(chosen.estimate_seconds)} of the chosen one, says: "
            f"{listed(others, 8)}."
        )
    if draft.break_even_acceptance is not None:
        pays = "pays" if draft.length and draft.acceptance_rate >= draft.break_even_acceptance else "does not pay here"
        sentences.append(
            f"Drafting {pays}: it breaks even with the best plain plan where {draft.break_even_acceptance:.2f} of the "
            f"drafted tokens are accepted"
            + (f"; expected are {draft.acceptance_rate:.2f} ({draft.acceptance_source})." if draft.length else ".")
        )
    return Explanation(question=question, sentences=sentences, figures=figures)


def _rank(of: CompiledFolder, weighed: Sequence[Weighed]) -> str:
    """Say how the chosen setting stands to the others, and whether its length was asked for."""
    tried = [s for s in weighed if s.seconds is not None]
    lengths = len({s.length for s in tried})
    is_least = all(_measured(weighed[0]) <= (s.seconds or 0.0) for s in tried)
    asked = of.record.arguments is not None and str(of.record.arguments.draft_length) != "auto"
    least = (
        f"the least of {len(tried)} settings of {lengths} draft length{'s' if lengths > 1 else ''} that were dispatched"
    )
    if asked:
        return f"and this length was asked for: {'it is ' + least if is_least else 'it is not the fastest'}"
    return least if is_least else "and is not the fastest of those that were dispatched"


def _against(setting: Weighed, chosen: Weighed) -> str:
    change = _measured(setting) / _measured(chosen) - 1
    return f"γ = {setting.length} {seconds(_measured(setting))} ({change:+.1%})"


def _measured(setting: Weighed) -> float:
    return setting.estimate_seconds if setting.seconds is None else setting.seconds
