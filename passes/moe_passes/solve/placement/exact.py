"""CP-SAT on a neighbourhood: a few experts at once, each among its most promising runs, over a sample of steps.

The model takes the link seconds of the chosen runs as a sum, which is exact unless two of the experts serve one token
on one bank, and then too high; so its answer is priced again as it stands, and kept only if it gains significantly.
The hint is the placement that is there, one worker and a deterministic budget make it reproducible.
"""

from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from moe_passes.plan.decisions import Banks
from moe_passes.solve import cp_sat
from moe_passes.solve.placement.problem import FloatArray, IntArray
from moe_passes.solve.placement.search import Offers, State, is_significant

EXPERTS, RUNS, STEPS = 6, 8, 48
"""Experts of a neighbourhood, runs of each that are tried, and steps that they are judged on."""
NEIGHBOURHOODS = 2
DETERMINISTIC_SECONDS = 0.15
UNITS = 100_000
"""Of the longest step: seconds are rounded to these for CP-SAT, which knows integers only."""


@dataclass(frozen=True)
class _Choice:
    """An expert that is out of its place, its old place, and the runs it may take."""

    expert: int
    old: Banks
    homes: list[Banks]


def improve(state: State, seed: int) -> None:
    """Solve some neighbourhoods of the experts in the busiest banks."""
    random = np.random.default_rng([seed, 7])
    for _ in range(NEIGHBOURHOODS):
        experts = _busiest(state, random)
        if len(experts) > 1:
            _solve(state, experts, seed, random)


def _busiest(state: State, random: np.random.Generator) -> list[int]:
    """Draw experts, those that lie more often in the bank that a step waits for the more likely."""
    busiest = state.load.max(axis=0).argmax(axis=1)
    blame = {
        expert: float(np.isin(busiest[state.visits.steps[expert]], home).sum()) / len(home)
        for expert, home in sorted(state.homes.items())
        if len(state.visits.steps[expert])
    }
    total = sum(blame.values())
    if not total:
        return []
    count = min(EXPERTS, sum(value > 0 for value in blame.values()))
    shares = np.array(list(blame.values())) / total
    return [int(e) for e in random.choice(list(blame), size=count, replace=False, p=shares)]


def _solve(state: State, experts: list[int], seed: int, random: np.random.Generator) -> None:
    before = state.seconds.copy()
    old = {expert: state.remove(expert) for expert in experts}
    choices = [_choice(state, expert, old[expert]) for expert in experts]
    steps = np.unique(np.concatenate([state.visits.steps[expert] for expert in experts]))
    sample = np.sort(random.permutation(steps)[:STEPS])
    found = _cp_sat(state, choices, sample, UNITS / float(before.max()), seed)
    for choice, home in zip(choices, found, strict=True):
        state.insert(choice.expert, home)
    if not state.has_room() or not is_significant(before - state.seconds):
        for choice in choices:
            state.remove(choice.expert)
        for choice in choices:
            state.insert(choice.expert, choice.old)


def _choice(state: State, expert: int, old: Banks) -> _Choice:
    offers: Offers = state.offers(expert)
    order = np.argsort(offers.seconds.sum(axis=1), kind="stable")[:RUNS]
    homes = [offers.banks(int(offer), state.banks) for offer in order]
    return _Choice(expert, old, [old, *(home for home in homes if home != old)])


def _cp_sat(state: State, choices: list[_Choice], steps: IntArray, scale: float, seed: int) -> list[Banks]:
    """Minimise the sum over steps of the busiest bank or the link; returns the run of each expert."""
    model = cp_model.CpModel()
    picks = [[model.new_bool_var("") for _ in choice.homes] for choice in choices]
    for row, choice in zip(picks, choices, strict=True):
        model.add_exactly_one(row)
        for number, pick in enumerate(row):
            model.add_hint(pick, choice.homes[number] == choice.old)
    _capacity(model, state, choices, picks)
    active = [np.isin(steps, state.visits.steps[choice.expert]) for choice in choices]
    heard = [[_new_banks(state, choice.expert, home, steps) for home in choice.homes] for choice in choices]
    times = []
    for number, step in enumerate(steps):
        time = model.new_int_var(0, 64 * UNITS, "")
        times.append(time)
        for channel, load in enumerate(state.load[:, step] * scale):
            terms = [
                (_need(state, c.expert, channel, step) / len(home) * scale, home, pick)
                for c, row, uses in zip(choices, picks, active, strict=True)
                if uses[number]
                for home, pick in zip(c.homes, row, strict=True)
            ]
            model.add(time >= round(float(load.max())))
            for bank in sorted({bank for _, home, _ in terms for bank in home}):
                here = [(round(part), pick) for part, home, pick in terms if bank in home]
                model.add(time >= round(float(load[bank])) + sum(part * pick for part, pick in here))
        link = [
            round(float(heard[c][h][number]) * state.link_rate * scale) * picks[c][h]
            for c in range(len(choices))
            for h in range(len(choices[c].homes))
        ]
        model.add(time >= round(float(state.heard[step]) * state.link_rate * scale) + sum(link))
        model.add(time >= round(float(state.floor[step]) * scale))
    model.minimize(sum(times))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_deterministic_time = DETERMINISTIC_SECONDS
    if cp_sat.run(solver, model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return [choice.old for choice in choices]
    chosen = [next(n for n, pick in enumerate(row) if solver.value(pick)) for row in picks]
    return [choice.homes[n] for choice, n in zip(choices, chosen, strict=True)]


def _need(state: State, expert: int, channel: int, step: int) -> float:
    """Seconds that one bank takes for all of an expert in a step that uses it."""
    return float(state.need[expert][channel, np.searchsorted(state.visits.steps[expert], step)])


def _capacity(
    model: cp_model.CpModel, state: State, choices: list[_Choice], picks: list[list[cp_model.IntVar]]
) -> None:
    for bank in range(state.banks):
        parts = [
            (int(np.ceil(state.sizes[choice.expert] / len(home))), pick)
            for choice, row in zip(choices, picks, strict=True)
            for home, pick in zip(choice.homes, row, strict=True)
            if bank in home
        ]
        room = int(state.problem.bank_limit_bytes - state.held[bank]) + 1 + len(choices)
        model.add(sum(part * pick for part, pick in parts) <= room)


def _new_banks(state: State, expert: int, home: Banks, steps: IntArray) -> FloatArray:
    """Banks that tokens of each step would newly hear if the expert were there: [step]."""
    visits = state.visits
    alone = (state.cover[np.ix_(visits.tokens[expert], np.array(home))] == 0).sum(axis=1)
    by_step = np.add.reduceat(alone, visits.firsts[expert])
    result = np.zeros(len(steps))
    places = np.searchsorted(visits.steps[expert], steps).clip(max=len(visits.steps[expert]) - 1)
    uses = visits.steps[expert][places] == steps
    result[uses] = by_step[places[uses]]
    return result
