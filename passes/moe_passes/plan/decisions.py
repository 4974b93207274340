"""What passes decide: residency, replicas, the draft plan, the dispatcher's plan; and what a solver says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

NONE, MSB, ALL = 0, 1, 2
"""Residency of an expert: nothing, its most significant slice, all of it."""
RESIDENCY = ("none", "msb", "all")
"""The names of the three, in every document."""

Banks = tuple[int, ...]
"""A replica: the banks that it is sharded over in equal parts, ascending."""
Replicas = tuple[tuple[Banks, ...], ...]
"""The replicas of every expert of a layer: [expert][replica]; none where nothing of it is resident."""


def shared_banks(copies: Sequence[Banks]) -> tuple[int, ...]:
    """Return the banks that hold several replicas of one expert: the second one serves nothing there."""
    banks = sorted(bank for copy in copies for bank in copy)
    return tuple(dict.fromkeys(one for one, other in pairwise(banks) if one == other))


ORDERS = ("program", "ready", "likelihood")
"""Orders of loads that need no knowledge of the future: program order; first come first served; what is known to be
needed in program order, then guesses, the likeliest first."""
ENGINES = ("free", "first")
"""Engine rules: the fastest mode that can start now; the first mode, however long it takes to be free."""
LATE = ("load", "stream")
"""What becomes of an expert that is not near and was not loaded ahead: loaded, or it streams past the engine."""


@dataclass(frozen=True)
class HotSetRule:
    """How the residents of a layer follow the routing.

    The hotness of an expert counts the tokens that chose it, each for less the longer ago it was. After a round the
    hottest of what verify loaded takes the place of the coldest resident, as long as it is the hotter of the two.

    Attributes:
        window_tokens: over so many tokens of the whole batch, what a token counts for falls by a factor e; 0: the
            residents stay as they are.
        most: experts of a layer that a round changes at most.
        every_rounds: rounds from one change to the next.
    """

    window_tokens: int
    most: int
    every_rounds: int


FROZEN = HotSetRule(0, 0, 1)
"""The residents stay as they are."""


@dataclass(frozen=True)
class DraftPlan:
    """What select-draft decided, besides the residency that each expert store carries.

    Attributes:
        length: γ; 0 is plain decoding.
        bits: of an expert's weight that the draft computes with.
        dense_bits: of a dense weight that the draft computes with.
        expert_fraction: resident experts over all experts.
        acceptance_rate: expected α.
        break_even_acceptance: the α at which drafting is as fast as the best plain decoding; above 1, it cannot pay.
        acceptance_source: where α comes from.
        staging_bytes: bytes of HB for prefetched slices.
        expert_bytes: bytes of HB left for experts.
        dense_bytes: bytes of HB taken by dense weights.
        kv_bytes: bytes of HB taken by the KV cache, copies included.
        kv_banks: banks that the KV cache of a head and sequence is striped over.
    """

    length: int
    bits: int
    dense_bits: int
    expert_fraction: float
    acceptance_rate: float
    break_even_acceptance: float
    acceptance_source: str
    staging_bytes: int
    expert_bytes: int
    dense_bytes: int
    kv_bytes: int
    kv_banks: int


@dataclass(frozen=True)
class Likelihoods:
    """How likely verify is to need an expert, by classes of what is known of it before verify's router has run.

    Class n of a quantity holds the values from border n − 1 up to, not including, border n.

    Attributes:
        share_borders: of the share of training rounds in which verify needed it, in ‰.
        recent_borders: of the tokens of the round before that were routed to it.
        ask_borders: of the draft tokens of this round that asked for it.
        permille: training cases of 1,000 in which it was needed, flattened from [share, recent, asks].
    """

    share_borders: tuple[int, ...]
    recent_borders: tuple[int, ...]
    ask_borders: tuple[int, ...]
    permille: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the number of classes of each quantity."""
        return len(self.share_borders) + 1, len(self.recent_borders) + 1, len(self.ask_borders) + 1


MOST_FAR_TOKENS = 2**31 - 1
"""Of an expert that is computed in the far memory: beyond any round."""


@dataclass(frozen=True)
class DispatchPlan:
    """How loads are started in a round that is not known in advance: chosen on training rounds by choose-dispatch.

    Attributes:
        sure_permille: experts that verify needed in at least so many of 1,000 training rounds are loaded from the start
            of every round; above 1,000, none.
        least_permille: an expert that draft tokens asked for is prefetched if it is then needed with at least this
            likelihood; above 1,000, never.
        likelihoods: of experts in training rounds.
        order: of loads that may start, of `ORDERS`.
        engine: of an expert, of `ENGINES`: the fastest that is free, or always near memory, on the preferred replica.
        most_far_tokens: an expert that is neither near nor loaded ahead, and that at most so many tokens are routed to,
            is computed where it lies, by the engine of the far memory; 0: none is.
        late: what becomes of others that are neither near nor loaded ahead, of `LATE`.
    """

    sure_permille: int
    least_permille: int
    likelihoods: Likelihoods
    order: str
    engine: str
    most_far_tokens: int = 0
    late: str = "load"


@dataclass(frozen=True)
class SolverRecord:
    """One solver call, as every output reports it.

    Attributes:
        pass_name: the pass.
        instance: what was solved, for people.
        status: `optimal`, `feasible` or `not-needed`.
        objective: seconds (or bytes for allocate-staging).
        lower_bound: proved bound on the objective.
        greedy: the greedy baseline's objective.
        seed: seed of the call.
        unit: unit of the three figures.
        limit: what the bound rests on, for people; empty where the solver does not say.
    """

    pass_name: str
    instance: str
    status: str
    objective: float
    lower_bound: float
    greedy: float
    seed: int
    unit: str
    limit: str = ""

    @property
    def gap(self) -> float:
        """(objective − bound) / objective, 0 where both are 0."""
        return gap(self.objective, self.lower_bound)


def gap(objective: float, lower_bound: float) -> float:
    """Return (objective − bound) / objective, 0 where the objective is 0."""
    return (objective - lower_bound) / objective if objective else 0.0
