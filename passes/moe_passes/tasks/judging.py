"""Dispatch a candidate of select-draft on a few training rounds, before anything is placed."""

from dataclasses import dataclass, replace

import numpy as np

from moe_passes.estimate.cost import CostModel
from moe_passes.plan.decisions import DispatchPlan
from moe_passes.plan.model import ExpertLayer
from moe_passes.plan.placed import PlacedLayer
from moe_passes.plan.request import Request
from moe_passes.routing.likelihood import likelihoods, share_needed
from moe_passes.routing.rounds import RoundRouting
from moe_passes.routing.traces import BoolArray, IntArray, RoutingTrace, evenly
from moe_passes.solve.dispatch.solver import mean_makespan
from moe_passes.solve.draft.history import LONGER_TIMES, dispatched, round_tokens
from moe_passes.solve.draft.problem import Choice, Problem
from moe_passes.solve.draft.solver import deep_of
from moe_passes.tasks.build import build_unknown
from moe_passes.tasks.dispatching import NOTHING_AHEAD
from moe_passes.tasks.problem import StaticPlan
from moe_passes.tasks.rounds import follow_rounds, read_rounds
from moe_passes.tasks.stages import Stage

SURE_PERMILLE, LEAST_PERMILLE = 1000, 800
"""Of the dispatcher while candidates are compared; choose-dispatch varies both for the one that is taken."""
COUNTED_ROUNDS = 32
"""Rounds that likelihoods are counted on."""


@dataclass(frozen=True)
class Bench:
    """What candidates are dispatched on.

    Attributes:
        cost: the machine.
        request: the request.
        hidden: width of the residual stream.
        layers: the MoE layers.
        phases: stages of a draft step and of the verify step.
        problem: what the candidates are of.
    """

    cost: CostModel
    request: Request
    hidden: int
    layers: tuple[ExpertLayer, ...]
    phases: tuple[tuple[Stage, ...], tuple[Stage, ...]]
    problem: Problem

    def longer_seconds(self, choice: Choice) -> float:
        """Return the same as `seconds` on `LONGER_TIMES` times as many rounds."""
        return self.seconds(choice, LONGER_TIMES)

    def seconds(self, choice: Choice, times: int = 1) -> float:
        """Return the mean seconds of the dispatched rounds, with every expert striped over all banks."""
        problem, length = self.problem, choice.setting.length
        trace = RoutingTrace(problem.chosen, problem.asked, problem.popularity.shape[1])
        tokens = round_tokens(problem, problem.batch, length)
        plan = self.plan(choice, trace, tokens)
        taken = dispatched(problem, len(tokens), length, times)
        rounds = follow_rounds(trace, plan, problem.popularity, tokens, taken)
        graphs = (build_unknown(of, routing, self.cost).unknown() for of, routing in rounds)
        return mean_makespan(graphs, plan.dispatch) * 1e-9

    def plan(self, choice: Choice, trace: RoutingTrace, tokens: IntArray) -> StaticPlan:
        """Return the plan of a choice, its dispatcher's likelihoods counted on these rounds of a trace."""
        setting = choice.setting
        plan = StaticPlan(
            batch=self.request.batch,
            context=self.request.context,
            length=setting.length,
            bits=setting.slice.bits,
            hidden=self.hidden,
            staging_bytes=setting.staging_bytes,
            draft=self.phases[0],
            verify=self.phases[1],
            layers=self._layers(choice),
            dispatch=replace(NOTHING_AHEAD, most_far_tokens=setting.far_tokens),
            hot_set=setting.rule,
            dense_bits=setting.dense_bits,
            kv_banks=setting.kv_banks,
        )
        if not setting.length or 0 not in self.problem.far_tokens:
            return plan
        counted = read_rounds(trace, plan, self.problem.popularity, tokens[evenly(len(tokens), COUNTED_ROUNDS)])
        return _guessing(plan, counted)

    def _layers(self, choice: Choice) -> tuple[PlacedLayer, ...]:
        deep = deep_of(self.problem, choice, choice.levels, self.problem.popularity)
        return tuple(self._layer(choice.levels[row], deep[row], row) for row in range(len(self.layers)))

    def _layer(self, levels: IntArray, deep: BoolArray, row: int) -> PlacedLayer:
        shape = self.layers[row]
        everywhere = (tuple(range(self.cost.space().banks)),)
        return PlacedLayer(
            shape,
            levels,
            tuple(everywhere if level else () for level in levels.tolist()),
            np.zeros(shape.experts, dtype=np.int64),
            deep,
        )


def _guessing(plan: StaticPlan, rounds: list[RoundRouting]) -> StaticPlan:
    """Let the dispatcher load ahead what is likely to be needed."""
    shares = share_needed(rounds)
    table = likelihoods(rounds, shares)
    far = plan.dispatch.most_far_tokens
    dispatch = DispatchPlan(SURE_PERMILLE, LEAST_PERMILLE, table, "likelihood", "free", far)
    return plan.with_needs(shares, dispatch)
