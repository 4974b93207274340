"""select-draft: which experts HB keeps and how they follow the routing, in how many bits, how much is staging, and γ.

A setting is a slice format of the experts, the bits of the dense weights in the draft, a staging size, a draft length γ
and a rule for the hot set. What is kept of each expert in a setting is a knapsack (`solve/residency`). Settings are
compared on training rounds that did not choose the residents: all by a closed form, the best few by dispatching them.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moe_passes.plan.acceptance import Acceptance, Draft
from moe_passes.plan.decisions import ALL, MSB, NONE, HotSetRule
from moe_passes.plan.errors import InputError
from moe_passes.plan.model import WHOLE_BITS
from moe_passes.plan.place import Place

SLICED_BITS = 4
"""Of a weight in the draft of which it computes with the most significant slice alone."""
SLICES_FIRST = 1e6
"""`Setting.coverage_weight` where no expert is kept whole before all slices that are asked for are there."""
COVERAGE_WEIGHTS = (SLICES_FIRST, 1.0, 0.0)
"""To choose from."""


@dataclass(frozen=True)
class Slice:
    """What the draft computes with of an expert, and so the least that HB keeps of a resident.

    Attributes:
        bits: of a weight that the draft computes with.
        resident_bytes: of that.
        residual_bytes: of the rest, which verify needs too: from external memory, unless HB keeps it as well.
    """

    bits: int
    resident_bytes: int
    residual_bytes: int


@dataclass(frozen=True)
class Rates:
    """Seconds of work on the machine.

    Attributes:
        draft_dense_seconds: dense parts of one draft step, by their bits and the banks of a KV cache.
        verify_dense_seconds: dense parts of one verify step, by γ and the banks of a KV cache.
        hb_seconds_per_byte: expert bytes read from all banks together.
        external_seconds_per_byte: expert bytes from external memory.
        load_latency_seconds: of one load.
        gather_seconds_per_token: aggregation of one token's expert outputs in one layer.
        far_seconds_per_byte: expert bytes read and computed where they lie in the far memory.
        far_expert_seconds: fixed, of an expert that is computed there.
        far_layer_seconds: of a verify layer with such experts, for what is sent there and back, by γ.
        far_memory_seconds_per_byte: of the far memory, whoever reads it.
    """

    draft_dense_seconds: dict[tuple[int, int], float]
    verify_dense_seconds: dict[tuple[int, int], float]
    hb_seconds_per_byte: float
    external_seconds_per_byte: float
    load_latency_seconds: float
    gather_seconds_per_token: float
    far_seconds_per_byte: float = 0.0
    far_expert_seconds: float = 0.0
    far_layer_seconds: dict[int, float] = field(default_factory=dict)
    far_memory_seconds_per_byte: float = 0.0


@dataclass(frozen=True)
class Problem:
    """A whole problem.

    Attributes:
        batch: sequences decoded together.
        top_k: experts a token is routed to.
        capacity_bytes: bytes of HB for experts, staging, and copies of the KV cache.
        copies_bytes: of the copies of the KV cache, by the banks that the cache of a head and sequence is striped over.
        slices: formats to choose from.
        staging_choices: sizes of staging to choose from, bytes.
        lengths: draft lengths to choose from.
        rules: for the hot set, to choose from.
        whole_bytes: of an expert in full precision.
        far_tokens: up to how many tokens of an expert it may be computed in the far memory, to choose from.
        popularity: [layer, expert], counts that choose the residents.
        chosen: [token, layer, k], the target's choices for the tokens that judge.
        asked: the same for the draft's own routing.
        acceptance: of drafted tokens.
        rates: of the machine.
        most_rounds: that judge by the closed form, from the first on.
        sampled_steps: draft steps whose distinct experts are counted.
        deep_experts: that the far memory does not hold: the least popular. Closed forms take them for others.
        place: where experts are to lie: near ones whole; None where that is open.
        placed_bytes: of the experts that such a placement has near.
        seed: of a placement at random.
    """

    batch: int
    top_k: int
    capacity_bytes: int
    copies_bytes: dict[int, int]
    slices: tuple[Slice, ...]
    staging_choices: tuple[int, ...]
    lengths: tuple[int, ...]
    rules: tuple[HotSetRule, ...]
    whole_bytes: int
    popularity: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]
    acceptance: Acceptance
    rates: Rates
    most_rounds: int = 256
    sampled_steps: int = 8
    far_tokens: tuple[int, ...] = (0,)
    deep_experts: int = 0
    place: Place | None = None
    placed_bytes: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 0:
            raise InputError(f"draft lengths {self.lengths}: valid: one or more, none negative")
        if not self.staging_choices or min(self.staging_choices) > self.capacity_bytes:
            raise InputError(f"no staging size of {self.staging_choices} fits into {self.capacity_bytes} bytes")
        needed = self.batch * (max(self.lengths) + 1)
        if len(self.chosen) < needed:
            raise InputError(f"{len(self.chosen)} tokens to judge by; valid: at least {needed}, those of one round")

    @property
    def dense_bits(self) -> tuple[int, ...]:
        """Bits of dense weights to choose from."""
        return tuple(dict.fromkeys(bits for bits, _ in self.rates.draft_dense_seconds))

    @property
    def layers(self) -> int:
        """MoE layers."""
        return int(self.popularity.shape[0])

    @property
    def experts(self) -> int:
        """Routed experts in all layers."""
        return int(self.popularity.size)


@dataclass(frozen=True)
class Setting:
    """What is chosen.

    Attributes:
        slice: format of the resident experts.
        dense_bits: of the dense weights in the draft.
        staging_bytes: size of staging.
        length: γ.
        rule: how the residents follow the routing.
        kv_banks: banks that the KV cache of a head and sequence is striped over.
        coverage_weight: what it counts that the draft finds an expert near, in units of what it counts that verify need
            not load the same slice of an expert that it needs in every round.
        far_tokens: what is not near is computed in the far memory, if at most so many tokens are routed to it.
    """

    slice: Slice
    dense_bits: int
    staging_bytes: int
    length: int
    rule: HotSetRule
    kv_banks: int
    coverage_weight: float = SLICES_FIRST
    far_tokens: int = 0

    def draft(self, share: float, coverage: float) -> Draft:
        """Return what decides how much is accepted; experts that are not cut are not sliced."""
        return Draft(self.dense_bits < WHOLE_BITS, self.slice.residual_bytes > 0, share, coverage)


@dataclass(frozen=True)
class Choice:
    """A setting with what HB keeps of experts at first.

    Attributes:
        setting: what is chosen.
        levels: [layer, expert], `NONE`, `MSB` or `ALL`.
        is_even: whether every layer keeps equally many.
    """

    setting: Setting
    levels: npt.NDArray[np.int64]
    is_even: bool = False

    @property
    def resident(self) -> npt.NDArray[np.bool_]:
        """Which experts HB keeps anything of: [layer, expert]."""
        return np.asarray(self.levels > NONE)

    @property
    def share(self) -> float:
        """Resident experts over all experts."""
        return float(self.resident.mean())

    def kept_bytes(self, whole_bytes: int) -> int:
        """Bytes of HB that experts take, of so many bytes each."""
        slices, wholes = int((self.levels == MSB).sum()), int((self.levels == ALL).sum())
        return slices * self.setting.slice.resident_bytes + wholes * whole_bytes


@dataclass(frozen=True)
class Candidate:
    """A choice and what is expected of it.

    Attributes:
        choice: the plan.
        coverage: share of what the draft asks for that is resident, mean.
        accepted: expected accepted tokens of a sequence in a round.
        tokens: expected tokens of a round, whole batch.
        estimate_seconds: mean of a round, closed form.
        seconds: mean of a round, dispatched on a few of the rounds, or on more to settle what is best; NaN before.
    """

    choice: Choice
    coverage: float
    accepted: float
    tokens: float
    estimate_seconds: float
    seconds: float = math.nan

    @property
    def estimate(self) -> float:
        """Seconds per token by the closed form."""
        return self.estimate_seconds / self.tokens

    @property
    def seconds_per_token(self) -> float:
        """What candidates are compared by in the end."""
        return self.seconds / self.tokens

    @property
    def acceptance_rate(self) -> float:
        """α of its γ: accepted over drafted tokens."""
        length = self.choice.setting.length
        return self.accepted / length if length else 0.0


@dataclass(frozen=True)
class Solution:
    """The best candidate, and what is known of it.

    Attributes:
        best: the plan.
        candidates: all that were dispatched, the best among them.
        greedy: seconds per token of the greedy baseline.
        lower_bound: proved bound on the seconds per token of every setting, on the rounds that judge.
        break_even_acceptance: α at which the plan (or the best draft, where the plan is plain decoding) is as fast as
            the best plain decoding.
        limit: what the bound rests on.
        others: of every γ that none but the greedy baseline was dispatched of, the best by the closed form.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]
    greedy: float
    lower_bound: float
    break_even_acceptance: float
    limit: str = ""
    others: tuple[Candidate, ...] = ()
