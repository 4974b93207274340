"""select-draft on small instances: brute force over every resident set, bound, and a checker that can refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_passes.plan.decisions import ALL, FROZEN, MSB, NONE
from moe_passes.plan.errors import InputError
from moe_passes.solve.draft import history, solver
from moe_passes.solve.draft.bound import lower_bound
from moe_passes.solve.draft.check import recomputed, violations
from moe_passes.solve.draft.history import cut_rounds, replay
from moe_passes.solve.draft.problem import COVERAGE_WEIGHTS, SLICES_FIRST, Candidate, Choice
from moe_passes.solve.draft.solver import Search, break_even, fill, room_bytes, solve

from tests.passes.solve.draft.made import EXPERTS, LAYERS, estimator, every_choice, every_setting, random_problem


def per_token(problem, choice, times=1):
    """Seconds per token of what the judge would dispatch."""
    return estimator(problem, times=times)(choice) / Search(problem).estimate_choice(choice).tokens


@pytest.mark.parametrize(
    ("seed", "capacity", "far_tokens", "times"),
    [(0, 200, (0,), 1), (1, 220, (0,), 4), (2, 200, (0, 5), 1)],
)
def test_the_bound_holds_for_every_choice(seed, capacity, far_tokens, times, monkeypatch):
    """Also of more rounds than usual, and of rounds that the closed form does not look at."""
    monkeypatch.setattr(history, "MOST_TOKENS", 4)
    monkeypatch.setattr(history, "LEAST_TOKENS", 4)
    problem = random_problem(seed, capacity, rules=random_problem(0).rules[:2], far_tokens=far_tokens, lengths=(0, 2))
    problem = replace(problem, staging_choices=(100,), copies_bytes={4: 0}, most_rounds=6)
    rounds = {n: cut_rounds(problem, problem.batch, n) for n in problem.lengths}
    assert len(rounds[0].chosen) == 6 < len(history.round_tokens(problem, problem.batch, 0))
    bound = lower_bound(problem, rounds, times).seconds
    best = min(per_token(problem, choice, times) for choice in every_choice(problem))
    assert bound <= best * (1 + 1e-12)
    assert bound > 0.25 * best, "and says something"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(100, 1200), st.integers(1, 3), st.sampled_from([(0,), (0, 3)]))
def test_answers_are_valid_and_never_worse_than_greedy(seed, capacity, batch, far_tokens):
    problem = random_problem(seed, capacity, batch, far_tokens=far_tokens)
    solution = solve(problem, estimator(problem))
    assert violations(problem, solution) == []
    assert solution.lower_bound <= solution.best.seconds_per_token <= solution.greedy


@pytest.mark.parametrize("seed", range(12))
def test_what_is_dispatched_holds_the_best_setting_by_the_closed_form(seed):
    """Descents from a setting of every format and weight: on these instances they end within half a percent."""
    problem = random_problem(seed, (300, 500, 700, 900)[seed % 4])
    search = Search(problem)
    shortlist = search.shortlist()
    best = min(search.estimate(setting).estimate for setting in every_setting(problem))
    assert min(c.estimate for c in shortlist) <= best * 1.005


def test_what_dispatching_says_decides():
    """A judge that knows better than the closed form: only plain decoding is not slow."""
    problem = random_problem(3)

    def judge(choice):
        return 1.0 if not choice.setting.length else 1000.0

    solution = solve(problem, judge)
    assert solution.best.choice.setting.length == 0
    assert solution.best.seconds == 1.0
    drafts = [c for c in solution.candidates if c.choice.setting.length]
    assert drafts, "others were tried"


def test_break_even_is_against_the_best_plain_plan():
    """Plain decoding takes 2 s, a round of γ drafted tokens 2 + γ: at α = ½ both cost the same per token."""
    problem = random_problem(1)
    solution = solve(problem, lambda choice: 2.0 + choice.setting.length)
    assert solution.break_even_acceptance == pytest.approx(0.5)
    drafting = replace(problem, lengths=(2,))
    solution = solve(drafting, lambda choice: 2.0 if not choice.setting.length else 3.0)
    assert solution.best.choice.setting.length == 2
    assert solution.break_even_acceptance == pytest.approx(0.25)
    assert solve(drafting, lambda choice: 2.0 - 0.1 * choice.setting.length).break_even_acceptance == 0.0
    plan = solution.best
    slower, faster = (
        replace(plan, seconds=seconds, choice=replace(plan.choice, setting=replace(plan.choice.setting, length=0)))
        for seconds in (3.0, 2.0)
    )
    assert break_even(plan, [slower, plan, faster]) == pytest.approx(0.25), "the faster of two plain plans counts"
    plain = replace(problem, lengths=(0,))
    assert solve(plain, estimator(plain)).break_even_acceptance == float("inf")


def share(problem):
    """The share of tokens that choose each expert."""
    return problem.popularity / problem.popularity.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(6))
def test_the_most_popular_experts_that_fit_are_kept(seed):
    problem = random_problem(seed)
    choice = solve(problem, estimator(problem)).best.choice
    room = room_bytes(problem, choice.setting)
    left_over = room - choice.kept_bytes(problem.whole_bytes)
    assert left_over < 100 or choice.kept_bytes(problem.whole_bytes) == problem.experts * 100
    kept, left = share(problem)[choice.resident], share(problem)[~choice.resident]
    assert choice.is_even or not len(left) or kept.min() >= left.max()


def test_slices_come_first_where_coverage_counts_and_whole_experts_where_it_does_not():
    """Room for six slices of 50 B, or three experts of 100 B: what a load costs besides its bytes decides."""
    problem = replace(random_problem(0), capacity_bytes=100 + 300)
    problem = replace(problem, popularity=problem.popularity + 1)
    setting = next(s for s in every_setting(problem) if s.slice.residual_bytes and s.length == 2 and s.kv_banks == 4)
    levels = {w: fill(problem, replace(setting, coverage_weight=w), problem.popularity) for w in COVERAGE_WEIGHTS}
    assert (np.sort(levels[SLICES_FIRST].ravel()) == [NONE] * 2 + [MSB] * 6).all()
    assert (np.sort(levels[0.0].ravel()) == [NONE] * 5 + [ALL] * 3).all()
    assert share(problem)[levels[0.0] == ALL].min() >= share(problem)[levels[0.0] == NONE].max()
    roomy = replace(problem, capacity_bytes=100 + 600)
    assert (np.sort(fill(roomy, setting, problem.popularity).ravel()) == [MSB] * 4 + [ALL] * 4).all(), (
        "where all slices fit, the rest of the room keeps experts whole"
    )


def test_what_is_kept_whole_saves_verify_its_load_by_hand():
    """All experts near: as slices, verify loads the rest of each; whole, nothing; the draft takes the same."""
    problem = replace(random_problem(0, rules=(FROZEN,)), capacity_bytes=1000)
    setting = next(s for s in every_setting(problem) if s.slice.residual_bytes and s.length == 1)
    sliced, whole = (Choice(setting, np.full((LAYERS, EXPERTS), level)) for level in (MSB, ALL))
    rounds = cut_rounds(problem, problem.batch, 1)
    loads = (rounds.chosen > 0).sum(axis=(1, 2))
    assert (replay(problem, rounds, sliced.levels, FROZEN).hot == loads).all()
    assert (replay(problem, rounds, whole.levels, FROZEN).hot == 0).all()
    search = Search(problem)
    gained = search.estimate_choice(sliced).estimate_seconds - search.estimate_choice(whole).estimate_seconds
    assert gained > 0
    assert search.estimate_choice(sliced).accepted == search.estimate_choice(whole).accepted


def test_what_is_not_near_is_computed_far_where_that_is_sooner():
    """Nothing is resident; a load takes 100 B · 0.1 s + 0.01 s, far 100 B · 0.004 s + 0.05 s beside reading near."""
    problem = random_problem(0, far_tokens=(0, 9), rules=(FROZEN,), lengths=(0,))
    problem = replace(problem, rates=replace(problem.rates, external_seconds_per_byte=0.1))
    setting = next(s for s in every_setting(problem) if not s.length and s.kv_banks == 4)
    nothing = np.zeros((LAYERS, EXPERTS), dtype=np.int64)
    distinct = (cut_rounds(problem, problem.batch, 0).chosen > 0).sum(axis=(1, 2))
    gathers, search = LAYERS * problem.batch * 0.02, Search(problem)
    dense = problem.rates.verify_dense_seconds[0, 4] + gathers
    loaded = search.estimate_choice(Choice(replace(setting, far_tokens=0), nothing)).estimate_seconds
    assert loaded == pytest.approx((dense + distinct * (0.1 + 10.01)).mean())
    far = search.estimate_choice(Choice(replace(setting, far_tokens=9), nothing)).estimate_seconds
    assert far == pytest.approx((dense + distinct * 0.45 + 2 * 0.1).mean())
    assert solve(problem, estimator(problem)).best.choice.setting.far_tokens == 9


@pytest.mark.parametrize("seed", range(8))
def test_estimates_are_what_the_checker_recomputes(seed):
    problem = random_problem(seed, 700, far_tokens=(0, 4))
    search = Search(problem)
    for setting in list(every_setting(problem))[seed :: 11 + seed]:
        found = search.estimate(setting)
        coverage, seconds = recomputed(problem, found.choice)
        assert found.coverage == pytest.approx(coverage)
        assert found.estimate_seconds == pytest.approx(seconds)


def test_the_checker_refuses():
    problem = random_problem(2)
    solution = solve(problem, estimator(problem))
    best, setting = solution.best, solution.best.choice.setting

    def wrong(**changes):
        return violations(problem, replace(solution, **changes))

    def with_setting(**changes):
        return replace(best, choice=replace(best.choice, setting=replace(setting, **changes)))

    everything = Choice(replace(setting, slice=problem.slices[1]), np.full((LAYERS, EXPERTS), ALL))
    assert any("taken" in text for text in wrong(best=replace(best, choice=everything)))
    for changes in (
        {"length": 7},
        {"staging_bytes": 1},
        {"dense_bits": 5},
        {"kv_banks": 3},
        {"rule": replace(FROZEN, most=3)},
        {"far_tokens": 77},
    ):
        assert any("was not offered" in text for text in wrong(best=with_setting(**changes)))
    for levels, said in ((np.full((1, 2), ALL), "have shape"), (np.full((LAYERS, EXPERTS), 5), "are kept as")):
        assert any(said in text for text in wrong(best=replace(best, choice=replace(best.choice, levels=levels))))
    for name in ("coverage", "accepted", "tokens", "estimate_seconds"):
        changed = replace(best, **{name: getattr(best, name) * 0.99 + 0.001})
        assert any("recomputed" in text for text in wrong(best=changed, candidates=(changed,)))
    assert any("none of the candidates" in text for text in wrong(candidates=()))
    better = replace(best, seconds=best.seconds / 2)
    assert any("better than the best" in text for text in wrong(candidates=(best, better)))
    assert any("bound" in text for text in wrong(lower_bound=best.seconds_per_token * 1.01))
    assert any("bound" in text for text in wrong(greedy=best.seconds_per_token * 0.99))


def test_what_is_found_below_the_bound_is_said():
    """Rather than a bound that is cut to it."""
    problem = random_problem(0, 500)
    judge = estimator(problem)
    solution = solve(problem, lambda choice: judge(choice) / 100)
    assert violations(problem, solution) == ["bound ≤ objective ≤ greedy does not hold"]


def made_up(length, ratio, estimate=1.0):
    setting = Search(random_problem(3)).greedy().choice.setting
    choice = Choice(replace(setting, length=length), np.zeros((LAYERS, EXPERTS), dtype=np.int64))
    return Candidate(choice, 1.0, 0.0, 1.0, estimate, ratio * estimate)


def test_the_error_of_the_closed_form_is_that_of_the_last_or_grows_as_it_did():
    """At γ = 2 and 4 it is 1.1 and 1.3: at 5 it is 1.4, at 1 it is 1."""
    kind, others = [made_up(2, 1.1), made_up(4, 1.3)], [made_up(0, 0.9), made_up(8, 1.7)]
    growing = solver._Error.growing(kind, kind + others)
    assert [growing.at(length) for length in (1, 2, 3, 5)] == pytest.approx([1.0, 1.1, 1.2, 1.4])
    assert solver._Error.alike(kind, kind + others).at(9) == pytest.approx(1.3)


def test_of_one_length_the_error_grows_as_that_of_all_kinds():
    """0.9, 1.3 and 1.7 at γ = 0, 4 and 8: 0.1 a token."""
    one, others = [made_up(4, 1.3)], [made_up(0, 0.9), made_up(8, 1.7)]
    assert solver._Error.growing(one, one + others).at(6) == pytest.approx(1.5)
    assert solver._Error.growing(one, one).at(6) == pytest.approx(1.3), "of one alone nothing is known"


def test_what_the_error_says_is_likely_is_dispatched_too(monkeypatch):
    """Every token that is drafted costs a third more than the closed form says: short drafts are tried after long."""
    problem = random_problem(5, 700)
    judge = estimator(problem)

    def lengths(further):
        monkeypatch.setattr(solver, "FURTHER", further)
        found = solve(problem, lambda choice: judge(choice) * (1 + choice.setting.length / 3)).candidates
        return [c.choice.setting.length for c in found]

    without, with_ = lengths(()), lengths((solver._Error.growing,) * 2)
    assert with_[: len(without)] == without
    assert len(with_) == len(without) + 2
    assert min(with_[len(without) :]) < max(without)


def test_what_differs_in_its_weight_alone_is_dispatched_once():
    """Where everything fits, every weight keeps the same of experts."""
    problem, asked = random_problem(3, 1200), []
    judge = estimator(problem)
    found = solve(problem, lambda choice: asked.append(choice) or judge(choice)).candidates
    same = {(replace(c.choice.setting, coverage_weight=0.0), c.choice.levels.tobytes()) for c in found}
    assert len(asked) == len(same) < len(found)
    assert all(c.seconds == judge(c.choice) for c in found)


def test_no_room_for_staging_is_refused():
    with pytest.raises(InputError, match="no staging size"):
        random_problem(0, capacity=50)


def test_too_few_tokens_are_refused():
    problem = random_problem(0)
    with pytest.raises(InputError, match="at least 6"):
        replace(problem, chosen=problem.chosen[:5])


def round_of(problem, choice, seconds):
    """Seconds of a round of which a token takes so many."""
    return seconds * Search(problem).estimate_choice(choice).tokens


def test_what_is_about_as_good_as_the_best_is_settled_on_more_rounds():
    """On a few rounds all drafts take 2 % less than plain decoding; on more of them, all of them take more."""
    problem, asked = random_problem(3), []

    def longer(choice):
        asked.append(choice.setting.length)
        return round_of(problem, choice, 1.01 if choice.setting.length else 1.0)

    def judge(choice):
        return round_of(problem, choice, 0.98 if choice.setting.length else 1.0)

    solution = solve(problem, judge, longer)
    drafts = [c for c in solution.candidates if c.choice.setting.length]
    assert solution.best.choice.setting.length == 0
    assert asked.count(0) == 1
    assert len(asked) == 1 + len(drafts), "until none was left that was better than what is settled"
    assert solve(problem, judge).best.choice.setting.length > 0
    far = solve(problem, lambda choice: round_of(problem, choice, 2.0 if choice.setting.length else 1.0), longer)
    assert len(asked) == 1 + len(drafts), "nothing is near"
    assert far.best.seconds_per_token == pytest.approx(1.0)


def test_only_what_may_be_taken_is_settled():
    """Plain decoding is 10 % faster than two drafts that are alike, and is not offered."""
    problem, asked = replace(random_problem(3), lengths=(1, 2)), []

    def judge(choice):
        return round_of(problem, choice, 0.9 if not choice.setting.length else 1 + choice.setting.length / 1000)

    def longer(choice):
        asked.append(choice.setting.length)
        return round_of(problem, choice, 1.2 if choice.setting.length == 1 else 1.01)

    solution = solve(problem, judge, longer)
    assert 0 not in asked
    assert 1 in asked
    assert solution.best.choice.setting.length == 2
    assert solution.best.seconds_per_token == pytest.approx(1.01)
