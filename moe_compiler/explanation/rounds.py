"""Which loads were wasted, and how sure the figures are: from the held-out rounds as dispatched."""

from collections import Counter

from moe_compiler.documents.explanation import Explanation
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.explanation.words import listed, needed_in, seconds, size


def explain_wasted(of: CompiledFolder) -> Explanation:
    """Say which loads nothing needed."""
    rounds = of.held_out.rounds
    wasted = [load for round_ in rounds for load in round_.wasted]
    by_expert = Counter((load.layer, load.expert) for load in wasted)
    by_layer = Counter(load.layer for load in wasted)
    count, total = max(1, len(rounds)), sum(load.bytes for load in wasted)
    busy = sum(load.seconds for load in wasted)
    figures = {
        "rounds": len(rounds),
        "loads": len(wasted),
        "bytes": total,
        "seconds": busy,
        "by_layer": {str(layer): n for layer, n in sorted(by_layer.items())},
        "by_expert": [{"layer": la, "expert": e, "loads": n} for (la, e), n in by_expert.most_common()],
        "regret": of.cost.held_out.regret,
        "informed_regret": of.cost.held_out.informed_regret,
    }
    if not wasted:
        sentences = [f"None: in {len(rounds)} held-out rounds verify needed everything that was loaded."]
    else:
        most = [f"{layer}.{expert} ({n})" for (layer, expert), n in by_expert.most_common(5)]
        read = of.cost.bytes.external_read
        sentences = [
            f"{len(wasted) / count:.1f} loads a round of {size(total / count)} ({total / count / max(1, read):.0%} of "
            f"what is read from the far memory), {seconds(busy / count)} of its link: {_begun(of)}, and verify did "
            "not need it.",
            f"The experts (LAYER.EXPERT, and loads in vain in {len(rounds)} rounds): {listed(most, 5)}.",
            f"Rounds take {of.cost.held_out.regret:.1%} longer than with hindsight, "
            f"{of.cost.held_out.informed_regret:.1%} had the draft asked for nothing in vain.",
        ]
    return Explanation(question="Which loads were wasted?", sentences=sentences, figures=figures)


def _begun(of: CompiledFolder) -> str:
    """Say why a load begins before verify's router has spoken."""
    dispatch = of.plan.dispatch
    why = ["the draft's routers asked for the expert"] if dispatch.least_permille <= 1000 else []
    if dispatch.sure_permille <= 1000:
        why.append(f"it was needed in {needed_in(dispatch.sure_permille)}")
    return ", or ".join(why) or "it was begun early"


def explain_trust(of: CompiledFolder) -> Explanation:
    """Say how sure the estimate is."""
    cost, low_high = of.cost, of.cost.token.ci95_seconds
    token, spread = cost.token, (cost.token.low_seconds, cost.token.high_seconds)
    assumed = of.record.assumed
    measured = of.measured
    figures = {
        "rounds": cost.held_out.rounds,
        "token_seconds": token.seconds,
        "ci95_seconds": list(low_high),
        "low_seconds": spread[0],
        "high_seconds": spread[1],
        "p95_round_seconds": cost.held_out.p95_seconds,
        "profile_kind": cost.profile.kind,
        "draft_routing": cost.profile.draft_routing,
        "acceptance_source": cost.draft.acceptance_source,
        "assumed": assumed,
        "measured_error": measured.predicted.error if measured and measured.predicted else None,
    }
    sentences = [
        f"A token takes {seconds(token.seconds)}, the mean of {cost.held_out.rounds} rounds that no pass has seen; "
        f"by drawing them anew, 95 % of means lie between {seconds(low_high[0])} and {seconds(low_high[1])}. The "
        f"slowest twentieth of rounds takes {seconds(cost.held_out.p95_seconds)} or more.",
        f"Routing is {cost.profile.kind} ({cost.profile.name}), that of the draft {cost.profile.draft_routing}."
        + (
            f" Over routing like every model that was measured, it is {seconds(spread[0])} to {seconds(spread[1])}."
            if spread[0] is not None and spread[1] is not None
            else ""
        ),
    ]
    if cost.draft.length:
        sentences.append(f"Acceptance is {cost.draft.acceptance_source}.")
    if assumed is not None:
        sentences.append(
            f"{len(assumed)} figures of the hardware file are assumed, not published: {listed(assumed, 6)}."
            if assumed
            else "No figure of the hardware file is marked as assumed."
        )
    if measured and measured.predicted:
        emulated = " with an emulated far memory" if measured.is_emulated else ""
        sentences.append(
            f"A run{emulated} took {seconds(measured.round.seconds)} a round, where "
            f"{seconds(measured.predicted.round_seconds)} was predicted ({measured.predicted.error:+.0%})."
        )
    return Explanation(question="How sure is it?", sentences=sentences, figures=figures)
