"""What rounds that follow each other come to under a choice: the hot set follows, and is held against the routing."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from moe_passes.plan.decisions import ALL, MSB, NONE, HotSetRule
from moe_passes.routing.traces import BoolArray, IntArray, by_popularity, cut, evenly, membership, restrict
from moe_passes.solve.draft.problem import Problem
from moe_passes.solve.hot_set.follow import HotSet

LEAST_TOKENS, MOST_TOKENS = 16, 64
"""Of a sequence, that a candidate is dispatched on: more of models with few experts, which are dispatched sooner."""
EXPERT_TOKENS = 100_000
"""Tokens times experts of the model, between these two."""
ROUNDS_A_TOKEN = 0.2
"""Rounds at least, a token that is dispatched: long rounds are more than a few too."""
LONGER_TIMES = 4
"""As many rounds as usual, to settle what is best of what is about as good."""


Bits = npt.NDArray[np.uint8]
"""A mask [round, layer, expert], the bits of a round packed into bytes: [round, byte]."""


@dataclass(frozen=True)
class Rounds:
    """Rounds of one batch and draft length that follow each other.

    Attributes:
        tokens: of a round, whole batch.
        chosen: [round, layer, expert], tokens that the target routed to each.
        asked: the same of the draft's routers; nothing where γ is 0.
        first_asked: [sample, batch, layer, expert], what the first draft step of the `samples` asked for.
        samples: rounds that draft steps are counted in.
    """

    tokens: int
    chosen: IntArray
    asked: IntArray
    first_asked: BoolArray
    samples: IntArray

    @cached_property
    def used(self) -> Bits:
        """Which experts verify needs."""
        return _bits(self.chosen > 0)

    @cached_property
    def used_and_asked(self) -> Bits:
        """Which of these the draft asks for too."""
        return self.used & _bits(self.asked > 0)

    @cached_property
    def asks(self) -> int:
        """How often the draft asks for an expert, in all rounds."""
        return int(self.asked.sum())


@dataclass(frozen=True)
class History:
    """What rounds come to; arrays are [round], summed over layers.

    Attributes:
        distinct: experts that verify computes.
        cold: of these, those that come whole.
        hot: of these, those of which HB keeps a slice, and the rest comes.
        asked_cold: of the cold, those that the draft asked for.
        asked_hot: of the hot, those that the draft asked for.
        swaps: residents that change, kept as slices.
        whole_swaps: residents that change, kept whole.
        drafted: distinct experts of a draft step, mean.
        active_layers: layers that have residents.
        coverage: share of what the draft asks for that is resident; 1 where nothing is drafted.
    """

    distinct: IntArray
    cold: IntArray
    hot: IntArray
    asked_cold: IntArray
    asked_hot: IntArray
    swaps: IntArray
    whole_swaps: IntArray
    drafted: float
    active_layers: int
    coverage: float


def round_tokens(problem: Problem, batch: int, length: int) -> IntArray:
    """Return the tokens of the rounds that judge: [round, batch, γ + 1]."""
    return cut(0, len(problem.chosen), batch, length + 1)


def dispatched(problem: Problem, rounds: int, length: int, times: int = 1) -> IntArray:
    """Choose the rounds that candidates are dispatched on, or so many times as many, spread over all that judges."""
    tokens = min(MOST_TOKENS, max(LEAST_TOKENS, EXPERT_TOKENS // problem.experts))
    return evenly(rounds, times * max(round(ROUNDS_A_TOKEN * tokens), tokens // (length + 1)))


def cut_rounds(problem: Problem, batch: int, length: int) -> Rounds:
    """Cut what judges by the closed form into rounds."""
    experts = problem.popularity.shape[1]
    tokens = round_tokens(problem, batch, length)[: problem.most_rounds]
    drafts = tokens[:, :, :length]
    samples = evenly(len(tokens), problem.sampled_steps) if length else np.zeros(0, dtype=np.int64)
    return Rounds(
        batch * (length + 1),
        counts(problem.chosen, tokens, experts),
        counts(problem.asked, drafts, experts),
        membership(problem.asked[drafts[samples, :, 0]], experts) if length else np.zeros((0, batch, 0, 0), dtype=bool),
        samples,
    )


def counts(choices: IntArray, tokens: IntArray, experts: int) -> IntArray:
    """Count how many of the tokens [round, …] chose each expert: [round, layer, expert]."""
    shape = (len(tokens), choices.shape[1], experts)
    result = np.zeros(shape, dtype=np.int64)
    for number, chosen in enumerate(tokens):
        flat = choices[chosen.ravel()] + experts * np.arange(shape[1])[:, None]
        result[number] = np.bincount(flat.ravel(), minlength=shape[1] * experts).reshape(shape[1:])
    return result


def replay(problem: Problem, rounds: Rounds, levels: IntArray, rule: HotSetRule) -> History:
    """Let the hot set follow the rounds, and count.

    Args:
        problem: the problem.
        rounds: that follow each other.
        levels: [layer, expert], what HB keeps at first.
        rule: how it follows.
    """
    hot_set = HotSet(rule, levels > NONE, problem.popularity)
    kept, covered = levels.astype(np.int8), 0
    residents, sliced = np.zeros_like(rounds.used), np.zeros_like(rounds.used)
    swaps, whole_swaps = (np.zeros(len(rounds.chosen), dtype=np.int64) for _ in range(2))
    for number, chosen in enumerate(rounds.chosen):
        resident = kept > NONE
        residents[number], sliced[number] = np.packbits(resident), np.packbits(kept == MSB)
        covered += int(rounds.asked[number].ravel() @ resident.ravel())
        layer, new, old = hot_set.follow(chosen, rounds.tokens, problem.top_k)
        # Each expert is kept as much of as the one whose place it takes.
        entered = kept[layer, old]
        kept[layer, new], kept[layer, old] = entered, NONE
        swaps[number], whole_swaps[number] = (entered == MSB).sum(), (entered == ALL).sum()
    return History(
        distinct=_count(rounds.used),
        cold=_count(rounds.used & ~residents),
        hot=_count(rounds.used & sliced),
        asked_cold=_count(rounds.used_and_asked & ~residents),
        asked_hot=_count(rounds.used_and_asked & sliced),
        swaps=swaps,
        whole_swaps=whole_swaps,
        drafted=_drafted(problem, rounds, residents),
        active_layers=int((levels > NONE).any(axis=1).sum()),
        coverage=covered / rounds.asks if rounds.asks else 1.0,
    )


def _bits(mask: BoolArray) -> Bits:
    return np.packbits(mask.reshape(len(mask), -1), axis=1)


def _count(bits: Bits) -> IntArray:
    return np.asarray(np.bitwise_count(bits).sum(axis=1, dtype=np.int64))


def _drafted(problem: Problem, rounds: Rounds, residents: Bits) -> float:
    """Mean distinct experts of a draft step, restricted to residents."""
    if not len(rounds.samples):
        return 0.0
    order, total = by_popularity(problem.popularity), 0
    samples = np.unpackbits(residents[rounds.samples], axis=1, count=problem.experts).astype(np.bool_)
    samples = samples.reshape(len(samples), 1, *problem.popularity.shape)
    for layer in range(problem.layers):
        asked, resident = rounds.first_asked[:, :, layer], samples[:, :, layer]
        total += int(restrict(asked, resident, order[layer], problem.top_k).any(axis=1).sum())
    return total / len(rounds.samples)


def best_coverage(rounds: Rounds, most: int) -> float:
    """Return the largest share of what the draft asks for that any `most` residents a round could have covered."""
    asks = np.sort(rounds.asked.reshape(len(rounds.asked), -1), axis=1)[:, ::-1]
    return float(asks[:, :most].sum() / asks.sum()) if asks.sum() else 1.0
