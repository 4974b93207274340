"""How long a prompt takes: passes of verify-like steps over many tokens, dispatched."""

from dataclasses import dataclass, replace

import numpy as np

from moe_passes.estimate.cost import CostModel
from moe_passes.estimate.far import late_ways
from moe_passes.plan.decisions import ENGINES, ORDERS, DispatchPlan
from moe_passes.routing.likelihood import table
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import RoutingTrace, evenly, membership, popularity, split_of
from moe_passes.solve.dispatch.online import dispatch
from moe_passes.solve.dispatch.solver import NEVER
from moe_passes.tasks.build import build_prefill
from moe_passes.tasks.problem import StaticPlan

PASS_TOKENS = 2048
"""Of the whole batch in one pass; what is loaded is used for so many, then loaded again."""
DISPATCHED_PASSES = 4
SURE_PERMILLE = 900
"""What so many passes of 1,000 need is loaded before the router has run."""


@dataclass(frozen=True)
class Prefill:
    """A prompt on the machine.

    Attributes:
        prompt_tokens: of each sequence.
        passes: over the model.
        seconds: to the first token of all sequences.
    """

    prompt_tokens: int
    passes: int
    seconds: float


def prefill(cost: CostModel, plan: StaticPlan, trace: RoutingTrace, prompt_tokens: int) -> Prefill:
    """Estimate the time to the first token.

    All tokens of a prompt are known, so a pass takes up to `PASS_TOKENS` at once: it computes each expert for all of
    its tokens, loads what is not resident once, and attends to what came before it and, on the mean, half of itself.
    The first token needs the head once. Tokens are those of the held-out split, over and over. Of many passes some are
    dispatched, the last one among them, and the others lie between. What is not near is loaded, or streams past the
    elements where they compute so and the whole prompt is sooner done.

    Args:
        cost: the machine.
        plan: of a round; its residents and its staging are those of the prompt.
        trace: routing.
        prompt_tokens: of each sequence, at least 1.
    """
    found = (_prefill(cost, plan, trace, prompt_tokens, late) for late in late_ways(cost))
    return min(found, key=lambda prompt: prompt.seconds)


def _prefill(cost: CostModel, plan: StaticPlan, trace: RoutingTrace, prompt_tokens: int, late: str) -> Prefill:
    width = max(1, min(prompt_tokens, PASS_TOKENS // plan.batch))
    passes = -(-prompt_tokens // width)
    taken = np.unique([*evenly(passes - 1, DISPATCHED_PASSES), passes - 1]) if passes > 1 else np.zeros(1, dtype=int)
    seconds = []
    for number in taken.tolist():
        done = number * width
        now = min(width, prompt_tokens - done)
        of = replace(_ahead(plan, trace, now, late), length=0, context=done + (now + 1) // 2)
        graph = build_prefill(of, _routing(trace, plan.batch, done, now), cost, now)
        seconds.append(dispatch(graph.unknown(), of.dispatch).makespan * 1e-9)
    return Prefill(prompt_tokens, passes, float(np.interp(np.arange(passes), taken, seconds).sum()))


def _ahead(plan: StaticPlan, trace: RoutingTrace, width: int, late: str) -> StaticPlan:
    """Let passes load ahead what is likely to be needed by one of their tokens, unless that is to stream past."""
    counts = popularity(trace)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True)) * trace.experts.shape[2]
    needed = 1 - (1 - np.minimum(shares, 1.0)) ** (plan.batch * width)
    sure = NEVER if late == "stream" else SURE_PERMILLE
    rule = DispatchPlan(sure, NEVER, table(), ORDERS[0], ENGINES[0], plan.dispatch.most_far_tokens, late)
    return plan.with_needs(np.round(1000 * needed).astype(np.int64), rule)


def _routing(trace: RoutingTrace, batch: int, done: int, width: int) -> RoundRouting:
    """Take the tokens of a pass: those of the sequences of a batch lie beside each other."""
    first, length = split_of(trace.tokens, "held-out")
    tokens = first + (done + np.arange(width) + width * np.arange(batch)[:, None]).ravel() % max(1, length)
    count, layers = trace.experts_per_layer, trace.experts.shape[1]
    verify = membership(trace.experts[tokens], count).transpose(1, 0, 2)
    nothing = np.zeros((0, layers, 1, count), dtype=np.bool_)
    return RoundRouting(verify, nothing, nothing, np.zeros((layers, count), dtype=np.int64), ((),) * layers)
