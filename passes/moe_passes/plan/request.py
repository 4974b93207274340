"""What is asked for: the request, the routing trace that is compiled against, and every range of the values in it."""

from dataclasses import dataclass

from moe_passes.plan.errors import InputError

AUTO_LENGTH = -1
"""`Request.draft_length` when select-draft chooses it."""


@dataclass(frozen=True)
class Range:
    """The valid values of one number of a request."""

    low: int
    high: int

    def check(self, name: str, value: object) -> int:
        """Return an integer within the range.

        Raises:
            InputError: it is not one.
        """
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise InputError(f"{name} {value}; valid: an integer from {self.low} to {self.high:,}")
        return value


BATCH = Range(1, 4096)
CONTEXT = Range(0, 10_000_000)
DRAFT_LENGTH = Range(0, 64)
SEED = Range(0, 2**31 - 1)
STEP_TOKENS = Range(1, 4096)
JOBS = Range(1, 256)
WORKERS = Range(1, 256)
PROMPT_TOKENS = Range(1, 1_000_000)
LONGEST_SECONDS = 1e6


def check_seconds(name: str, value: object) -> float:
    """Return a solver budget in deterministic seconds.

    Raises:
        InputError: not a number from 0 to `LONGEST_SECONDS`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_SECONDS:
        raise InputError(f"{name} {value}; valid: deterministic seconds from 0 to {LONGEST_SECONDS:g}")
    return float(value)


def check_draft_length(name: str, value: object) -> int:
    """Return γ, or `AUTO_LENGTH` for `auto`.

    Raises:
        InputError: neither `auto` nor a number in range.
    """
    if value == "auto":
        return AUTO_LENGTH
    written = str(value)
    length = int(written) if written.isascii() and written.isdigit() and len(written) < 4 else -1
    if not DRAFT_LENGTH.low <= length <= DRAFT_LENGTH.high:
        raise InputError(f"{name} {value}; valid: auto, or {DRAFT_LENGTH.low} to {DRAFT_LENGTH.high}")
    return length


@dataclass(frozen=True)
class Request:
    """The request.

    Attributes:
        batch: sequences decoded together.
        context: tokens already in the KV cache of each sequence.
        draft_length: γ, or `AUTO_LENGTH`.
        seed: of every solver.
        time_limit_seconds: solver budget in deterministic seconds.
        cost_model: registered name of the cost model that answers for the machine.
        place: where experts are to lie (`plan.place`); empty: where select-draft finds best.
    """

    batch: int
    context: int
    draft_length: int
    seed: int
    time_limit_seconds: float
    cost_model: str = "analytic"
    place: str = ""


@dataclass(frozen=True)
class ProfileRecord:
    """Which routing trace was compiled against.

    Attributes:
        name: shipped name or file name.
        kind: `real` or `synthetic`.
        sha256: of the trace's arrays.
        draft_routing: `measured`, or `assumed` where the draft's routing was modelled.
    """

    name: str
    kind: str
    sha256: str
    draft_routing: str


@dataclass(frozen=True)
class MeasuredAcceptance:
    """What was measured of a draft, outside: α, or how many drafted tokens verify accepted.

    Attributes:
        expert_bits: of an expert's weight in that draft; 0: whatever the draft.
        dense_bits: of a dense weight in that draft; 0: whatever the draft.
        share: of the experts that were resident; counts where bits are given.
        rate: α, accepted over drafted tokens, where that alone is known.
        length: draft length that α is of, or the longest that lengths are known of.
        survival_ppm: rounds of a million in which at least 1, 2, … `length` drafted tokens were accepted; none where α
            alone is known.
        source: where it comes from, for outputs.
    """

    expert_bits: int
    dense_bits: int
    share: float
    rate: float
    length: int
    survival_ppm: tuple[int, ...]
    source: str
