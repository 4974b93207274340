"""What a run does and when: spans of its first rounds, for a timeline, and the times of its rounds."""

import time
from dataclasses import dataclass, field

MOST_SPANS = 20_000
"""That are kept: a record is no part of the memory that a plan speaks of, so it stays small."""
MOST_ROUNDS = 10_000
NONE = -1


@dataclass(slots=True)
class Span:
    """Something that took time; nanoseconds from the beginning of the record.

    Attributes:
        kind: `attention`: all dense work up to the experts of a layer; `draft-experts`: of a layer; `expert`: one, of
            verify; `gather`: what follows the last of a layer; `head`: what follows the last ones of a step;
            `load`; `wait`: for a load; `write`: what replaces a resident.
        step: the draft step, or γ for verify.
        layer: decoder layer, −1 where there is none.
        expert: likewise.
        start: when it began.
        end: when it ended.
        bytes: that moved.
        is_wasted: of a load: whether nothing was computed with it.
    """

    kind: str
    step: int
    layer: int
    expert: int
    start: int
    end: int
    bytes: int = 0
    is_wasted: bool = False


@dataclass(frozen=True, slots=True)
class RoundTime:
    """A round; nanoseconds from the beginning of the record.

    Attributes:
        start: when it began.
        verify: when its verify step began.
        end: when it ended.
        sequences: that took part.
        tokens: that it brought, of all of them.
        bytes: that were loaded meanwhile.
    """

    start: int
    verify: int
    end: int
    sequences: int
    tokens: int
    bytes: int


@dataclass
class Record:
    """What has been recorded; nothing is before `begin`.

    Attributes:
        spans: of the first rounds, in the order in which they ended.
        rounds: the first rounds.
        step: that is running.
        left_out: spans that there was no room for.
    """

    spans: list[Span] = field(default_factory=list)
    rounds: list[RoundTime] = field(default_factory=list)
    step: int = 0
    left_out: int = 0
    _origin: int = 0
    _since: int = 0
    _verify: int = 0

    def begin(self) -> None:
        """Begin to record."""
        self._origin = time.perf_counter_ns()

    def now(self) -> int:
        """Return the time."""
        return time.perf_counter_ns() - self._origin

    def step_begins(self, number: int, is_draft: bool) -> None:
        """Note that a step begins."""
        self.step, self._since = number, self.now()
        if not is_draft:
            self._verify = self._since

    def mark(self) -> None:
        """Note that what runs on the engine next begins now."""
        self._since = self.now()

    def so_far(self, kind: str, layer: int = NONE, expert: int = NONE) -> None:
        """Add what has run on the engine since the last span, or mark, or since the step began."""
        self._since = self.add(kind, self._since, layer, expert).end

    def add(self, kind: str, start: int, layer: int = NONE, expert: int = NONE, moved: int = 0) -> Span:
        """Add a span that ends now; returns it."""
        return self._keep(Span(kind, self.step, layer, expert, start, self.now(), moved))

    def loaded(self, times: tuple[int, int], layer: int, expert: int, moved: int) -> Span:
        """Add a load that is wasted until something is computed with it; returns it.

        Args:
            times: when it began and ended, in nanoseconds of `time.perf_counter_ns`.
            layer: decoder layer.
            expert: that was loaded.
            moved: bytes.
        """
        start, end = (time - self._origin for time in times)
        return self._keep(Span("load", self.step, layer, expert, start, end, moved, is_wasted=True))

    def _keep(self, span: Span) -> Span:
        if self._origin and len(self.spans) < MOST_SPANS:
            self.spans.append(span)
        elif self._origin:
            self.left_out += 1
        return span

    def round_ends(self, start: int, sequences: int, tokens: int, moved: int) -> None:
        """Add a round that ends now."""
        if len(self.rounds) < MOST_ROUNDS:
            self.rounds.append(RoundTime(start, self._verify, self.now(), sequences, tokens, moved))
