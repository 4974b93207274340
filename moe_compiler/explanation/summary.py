"""A compile in a table: what is printed when it is done, and the first thing that the report shows."""

from moe_compiler.documents.cost import CostDocument, HeldOut, Prefill, SteadyState, Token
from moe_compiler.documents.folder import CompiledFolder
from moe_compiler.documents.plan import HotSet


def summary_rows(of: CompiledFolder) -> list[tuple[str, str]]:
    """Word a compile: (name, value)."""
    plan, cost, record = of.plan, of.cost, of.record
    round_, count, training = cost.round, cost.parameters, cost.training_round
    changed = f" with {', '.join(cost.overrides)}" if cost.overrides else ""
    return [
        ("model", f"{cost.model}: {len(plan.layers)} MoE layers of {len(plan.layers[0].residency)} experts"),
        *(("note", note) for note in record.notes),
        ("format", cost.format),
        (
            "parameters",
            f"{count.total / 1e9:.2f} B, active {count.active_with_embedding / 1e9:.2f} B "
            f"({count.active_without_embedding / 1e9:.2f} B without the input embedding)",
        ),
        ("target", f"{cost.target}{changed}, batch {cost.batch}, context {cost.context}"),
        ("profile", f"{cost.profile.name} ({cost.profile.kind} routing)"),
        ("mode", _mode(cost)),
        ("acceptance", _acceptance(cost)),
        ("experts in HB", f"{cost.draft.expert_fraction:.1%}, staging {plan.hb.staging_bytes / 1e6:.1f} MB"),
        ("hot set", _hot_set(cost.hot_set, cost.held_out.swaps)),
        (
            "held-out round",
            f"{round_.seconds * 1e3:.3f} ms for {round_.tokens:.2f} tokens, mean of {cost.held_out.rounds} "
            f"(95 %: {_range(*round_.ci95_seconds)}); bound {round_.lower_bound_seconds * 1e3:.3f} ms, "
            f"gap {round_.gap:.1%}",
        ),
        ("regret", _regret(cost.held_out)),
        ("token", _token(cost.token)),
        *([("prompt", _prompt(cost.prefill))] if cost.prefill else []),
        (
            "training round",
            f"{training.seconds * 1e3:.3f} ms, scheduled in advance, in {training.tasks} tasks; "
            f"bound {training.lower_bound_seconds * 1e3:.3f} ms, gap {training.gap:.1%}, "
            f"greedy {training.greedy_seconds * 1e3:.3f} ms",
        ),
        ("steady state", _steady_state(cost.steady_state)),
        ("limited by", f"{cost.limited_by} ({cost.roofline_fraction:.0%} of its roofline)"),
        ("compiled in", f"{record.total_seconds:.1f} s, peak {record.peak_mib:.0f} MiB"),
    ]


def _mode(cost: CostDocument) -> str:
    draft = cost.draft
    if not draft.length:
        return "plain decoding, draft length 0: drafting does not pay here"
    mode = f"speculative decoding, draft length {draft.length}, draft in {draft.bits} bits"
    return mode if draft.dense_bits == draft.bits else f"{mode}, its dense weights in {draft.dense_bits}"


def _acceptance(cost: CostDocument) -> str:
    alpha, even = f"{cost.draft.acceptance_rate:.2f} ({cost.draft.acceptance_source})", cost.draft.break_even_acceptance
    return alpha if even is None else f"{alpha}, break-even {even:.2f}"


def _regret(held: HeldOut) -> str:
    return (
        f"{held.regret:.1%} over schedules with hindsight "
        f"({held.informed_regret:.1%} without the draft's wrong asks), p95 {held.p95_seconds * 1e3:.3f} ms"
    )


def _range(low: float, high: float) -> str:
    return f"{low * 1e3:.3f} to {high * 1e3:.3f}"


def _token(token: Token) -> str:
    text = f"{token.seconds * 1e3:.3f} ms, "
    text += "energy not stated" if token.joules is None else f"{token.joules * 1e3:.1f} mJ"
    if token.low_seconds is None or token.high_seconds is None:
        return text
    return f"{text}; {_range(token.low_seconds, token.high_seconds)} ms over routing like every measured model's"


def _prompt(prefill: Prefill) -> str:
    passes = "one pass" if prefill.passes == 1 else f"{prefill.passes} passes"
    return f"{prefill.prompt_tokens} tokens: {prefill.seconds * 1e3:.1f} ms to the first token, in {passes}"


def _hot_set(rule: HotSet, swaps: float) -> str:
    if not rule.window_tokens:
        return "frozen: residents stay as they are"
    return f"follows {rule.followed()}; {swaps:.1f} change a round"


def _steady_state(steady: SteadyState) -> str:
    return (
        f"a round every {steady.period_seconds * 1e3:.3f} ms, bound {steady.lower_bound_seconds * 1e3:.3f} ms; "
        f"{steady.carried_loads} loads of the next round in the tail"
    )
