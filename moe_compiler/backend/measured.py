"""What a run recorded, in the form of what was predicted: measured.json and a Perfetto trace."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from moe_passes.plan.round import EXTERNAL

from moe_compiler.backend.phases import BANDWIDTH, PHASES, label, phase
from moe_compiler.backend.trace_file import Slice, summed, write_trace
from moe_compiler.documents import measured as measured_json
from moe_compiler.documents.cost import CostDocument
from moe_compiler.evaluate.report import confidence
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.record import NONE, Record, RoundTime, Span

ENGINE = "engine"
ROUNDS = "rounds"


@dataclass(frozen=True)
class MeasuredRun:
    """What a run took.

    Attributes:
        record: of its rounds.
        sequences: that were decoded.
        prompt_tokens: of all of them.
        prompt_seconds: that their prompts took.
        acceptance_rate: share of drafted tokens that verify accepted; None: nothing was drafted.
        far_bytes_per_second: that reads of the far memory were held to; None: as fast as they are.
        activation_bits: of what matrices were multiplied with.
        kernel: what multiplied, in words.
    """

    record: Record
    sequences: int
    prompt_tokens: int
    prompt_seconds: float
    acceptance_rate: float | None
    far_bytes_per_second: float | None
    activation_bits: int
    kernel: str


def measured_document(run: MeasuredRun, plan: Plan, length: int, cost: CostDocument) -> measured_json.MeasuredDocument:
    """Return measured.json.

    Args:
        run: what was measured.
        plan: that was run.
        length: γ.
        cost: what was predicted.
    """
    rounds = [part for part in run.record.rounds if part.sequences == run.sequences]
    times = np.array([(part.start, part.verify, part.end, part.tokens, part.bytes) for part in rounds])
    seconds = (times[:, 2] - times[:, 0]) * 1e-9
    low, high = confidence(seconds)
    mean, tokens = float(seconds.mean()), float(times[:, 3].mean())
    drafts = float((times[:, 1] - times[:, 0]).mean()) * 1e-9
    rate = run.far_bytes_per_second
    return measured_json.MeasuredDocument(
        model=cost.model,
        batch=run.sequences,
        is_emulated=rate is not None,
        far_bandwidth_gb_s=rate and rate / 1e9,
        activation_bits=run.activation_bits,
        kernel=run.kernel,
        draft=measured_json.Draft(
            length=length, bits=plan.draft_bits, dense_bits=plan.dense_bits, acceptance_rate=run.acceptance_rate
        ),
        round=measured_json.Round(
            rounds=len(rounds),
            seconds=mean,
            ci95_seconds=(low, high),
            draft_seconds=drafts,
            verify_seconds=mean - drafts,
            tokens=tokens,
        ),
        token=measured_json.Token(seconds=mean / tokens, ci95_seconds=(low / tokens, high / tokens)),
        prefill=measured_json.Prefill(prompt_tokens=run.prompt_tokens, seconds=run.prompt_seconds),
        bytes=measured_json.Bytes(external_read=round(float(times[:, 4].mean()))),
        busy_fraction=busy_fractions(run.record),
        trace=measured_json.Traced(spans=len(run.record.spans), left_out=run.record.left_out),
        predicted=measured_json.predicted(cost, mean) if run.sequences == plan.batch else None,
    )


def measured_timeline(record: Record, length: int, title: str) -> bytes:
    """Serialise the recorded rounds.

    Args:
        record: of a run.
        length: γ.
        title: of the trace.
    """
    spans, rounds = record.spans, traced_rounds(record)
    loads = [(span.start, span.end, span.bytes / (span.end - span.start)) for span in spans if _moves(span)]
    slices = [*_rounds(rounds), *_phases(spans, rounds, length), *_slices(spans, length)]
    return write_trace(title, [ROUNDS, PHASES, EXTERNAL, ENGINE], slices, summed(BANDWIDTH, "GB/s", loads))


def traced_rounds(record: Record) -> list[RoundTime]:
    """Return the rounds that spans were kept of, from beginning to end."""
    last = max((span.end for span in record.spans), default=0)
    return [r for r in record.rounds if not record.left_out or r.end <= last]


def busy_fractions(record: Record) -> dict[str, float]:
    """Return the share of the traced rounds in which the far memory is read, and in which the engine computes."""
    rounds = traced_rounds(record)
    whole = rounds[-1].end - rounds[0].start if rounds else 0
    if not whole:
        return {}
    busy: dict[str, list[Span]] = {EXTERNAL: [], ENGINE: []}
    for span in record.spans:
        if span.end <= rounds[-1].end and span.kind != "wait":
            busy[EXTERNAL if span.kind == "load" else ENGINE].append(span)
    return {name: _covered(spans) / whole for name, spans in busy.items()}


def _covered(spans: Sequence[Span]) -> int:
    """Return the nanoseconds in which one span or more lasts."""
    covered, reached = 0, 0
    for span in sorted(spans, key=lambda span: span.start):
        covered += max(0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    return covered


def _moves(span: Span) -> bool:
    return span.kind == "load" and span.bytes > 0 and span.end > span.start


def _rounds(rounds: Sequence[RoundTime]) -> Iterator[Slice]:
    for number, part in enumerate(rounds, 1):
        details = (("sequences", part.sequences), ("tokens", part.tokens), ("bytes loaded", part.bytes))
        yield Slice(ROUNDS, f"round {number}", part.start, part.end, details)


def _phases(spans: Sequence[Span], rounds: Sequence[RoundTime], length: int) -> Iterator[Slice]:
    """Give every step a slice from the start of its first computation to the end of its last."""
    computed = [span for span in spans if span.kind != "load"]
    place = 0
    for part in rounds:
        of: dict[int, tuple[int, int]] = {}
        while place < len(computed) and computed[place].end <= part.end:
            span = computed[place]
            start, _ = of.get(span.step, (span.start, span.end))
            of[span.step] = min(start, span.start), span.end
            place += 1
        for step, (start, end) in of.items():
            yield Slice(PHASES, phase(step, length), start, end)


def _slices(spans: Sequence[Span], length: int) -> Iterator[Slice]:
    """Give spans their tracks; an arrow leads from a load to what is computed with it."""
    waiting: dict[tuple[int, int], list[int]] = {}
    numbers = {id(span): number for number, span in enumerate(spans, 1)}
    for span in spans:
        is_load, key = span.kind == "load", (span.layer, span.expert)
        ended: tuple[int, ...] = ()
        if is_load and not span.is_wasted:
            waiting.setdefault(key, []).append(numbers[id(span)])
        elif span.kind in ("expert", "write"):
            ended = tuple(waiting.pop(key, ()))
        yield Slice(
            EXTERNAL if is_load else ENGINE,
            label(span.kind, span.step, length, span.layer, span.expert),
            span.start,
            span.end,
            _details(span),
            (numbers[id(span)],) if is_load and not span.is_wasted else (),
            ended,
        )


def _details(span: Span) -> tuple[tuple[str, int | str], ...]:
    found: dict[str, int | str] = {}
    found |= {"layer": span.layer} if span.layer != NONE else {}
    found |= {"expert": span.expert} if span.expert != NONE else {}
    found |= {"bytes": span.bytes, "wasted": str(span.is_wasted).lower()} if span.kind == "load" else {}
    return tuple(found.items())
