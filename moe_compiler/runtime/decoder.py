"""The draft–verify loop with greedy acceptance: it gives exactly the tokens of decoding one at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moe_compiler.runtime.hot_set import HotSetRule
from moe_compiler.runtime.kernels import ACTIVE, CaughtLinear, Kernels, Step
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.replay import Departures, Replay
from moe_compiler.runtime.store import IN_ORDER, NEVER, EngineRule, ExpertStore

Round = Callable[["Decoder"], list[list[int]]]


@dataclass(frozen=True)
class ExpertModule:
    """An experts module of a model: where it is, its router's weight, and its matrices as [out, in]."""

    layer: int
    module: nn.Module
    router: Tensor
    top_k: int
    matrices: Callable[[int], tuple[Tensor, Tensor]]
    experts: int


@dataclass(frozen=True)
class Executable:
    """A model that can be run: its module, and where its experts are."""

    module: nn.Module
    experts: tuple[ExpertModule, ...]


class Decoder:
    """One model, its quantised weights, its KV cache, and the sequences that are being decoded.

    Attributes:
        tokens: the sequences so far, prompt included.
        drafted: drafted tokens.
        accepted: drafted tokens that verify accepted.
        rounds: verify steps.
        promoted: experts that took a resident's place.
        verified: tokens of the last verify step, of all sequences.
    """

    def __init__(self, model: Executable, plan: Plan, prompts: list[list[int]], capacity: int) -> None:
        self.model, self.plan = model, plan
        self.store = ExpertStore(plan)
        self.kernels = Kernels(self.store, capacity)
        for part in model.experts:
            self.kernels.routers[id(part.router)] = part.layer
            self.kernels.experts_layer[id(part.module)] = part.layer
            self.kernels.top_k[part.layer] = part.top_k
            for expert in range(part.experts):
                self.store.add(part.layer, expert, part.matrices(expert))
        self.tokens = [list(prompt) for prompt in prompts]
        self.drafted = self.accepted = self.rounds = self.promoted = self.verified = 0
        self._prefill()

    def begin_round(self) -> None:
        """Begin a round."""
        self.store.begin_round()

    def prefetch_sure(self, permille: int, order: str) -> None:
        """Start to load what was needed in at least so many of 1,000 training rounds."""
        self.store.prefetch_sure(permille, order)

    def draft(self, step: int, drafts: list[Tensor], least_permille: int = NEVER, order: str = "ready") -> Tensor:
        """Run one draft step.

        Args:
            step: its number.
            drafts: what the steps before gave.
            least_permille: what a router asks for is loaded if it is at least so likely to be needed.
            order: of loads: `program`, `ready` or `likelihood`.

        Returns:
            The drafted token of every sequence: [batch].
        """
        self.store.least_permille, self.store.order = least_permille, order
        last = drafts[-1] if drafts else torch.tensor([sequence[-1] for sequence in self.tokens])
        positions = torch.tensor([[len(sequence) - 1 + step] for sequence in self.tokens])
        logits = self._run(last[:, None], Step(True, positions, step))
        return torch.argmax(logits[:, -1], dim=1)

    def verify(self, drafts: list[Tensor], rule: EngineRule = IN_ORDER) -> list[list[int]]:
        """Verify drafted tokens and append what the target model says.

        Args:
            drafts: what the draft steps gave.
            rule: how experts are computed.

        Returns:
            The new tokens of every sequence.
        """
        self.store.rule = rule
        rows = self._rows(drafts)
        first = torch.tensor([[len(sequence) - 1] for sequence in self.tokens])
        step = Step(False, first + torch.arange(rows.shape[1]), len(drafts), rule.engine)
        choices = torch.argmax(self._run(rows, step), dim=2).tolist()
        result = []
        for sequence, row, choice in zip(self.tokens, rows.tolist(), choices, strict=True):
            matching = 0
            while matching < len(drafts) and row[matching + 1] == choice[matching]:
                matching += 1
            new = choice[: matching + 1]
            sequence.extend(new)
            result.append(new)
            self.drafted += len(drafts)
            self.accepted += matching
        self.rounds += 1
        self.verified = rows.numel()
        return result

    def _rows(self, drafts: list[Tensor]) -> Tensor:
        """Return the last token of every sequence and what was drafted after it: [batch, width]."""
        last = torch.tensor([[sequence[-1]] for sequence in self.tokens])
        return torch.cat([last, *(draft[:, None] for draft in drafts)], dim=1)

    def update_hot_set(self, rule: HotSetRule) -> None:
        """Let what has become hotter than a resident take its place in HB, as the rule says."""
        self.promoted += len(self.store.update_hot_set(rule, self.verified))

    def carry(self, experts: Iterable[tuple[int, int]]) -> None:
        """Start to load (layer, expert) for the next round."""
        self.store.prefetch(experts)

    def release_staging(self) -> None:
        """Free staging: the round is over."""
        self.store.release_staging()

    def replay(self) -> Departures:
        """Run the round that was scheduled, with its routing, its order and its addresses.

        Raises:
            ValueError: the program has none.
        """
        run = Replay(self.plan, self.store)
        self.kernels.replay = run
        try:
            drafts: list[Tensor] = []
            for step in range(run.length):
                drafts.append(self.draft(step, drafts))
                run.ended(step)
            self.verify(drafts)
            run.ended(run.length)
            found = run.finish()
            for layer, new, old in run.promoted():
                self.store.replace(layer, new, old)
            return found
        finally:
            self.kernels.replay = None

    def close(self) -> None:
        """Stop the loader thread."""
        self.store.close()

    def _prefill(self) -> None:
        """Run all prompt tokens but the last, one position at a time, sequence lengths being equal."""
        lengths = {len(sequence) for sequence in self.tokens}
        if len(lengths) != 1 or not min(lengths):
            raise ValueError("prompts must have one length, at least 1")
        for position in range(lengths.pop() - 1):
            rows = torch.tensor([[sequence[position]] for sequence in self.tokens])
            self._run(rows, Step(False, torch.full_like(rows, position)))
        self.store.release_staging()
        self.store.forget()

    def _run(self, rows: Tensor, step: Step) -> Tensor:
        self.kernels.step = step
        ACTIVE.append(self.kernels)
        try:
            with torch.inference_mode(), CaughtLinear(self.kernels):
                output: Any = self.model.module(input_ids=rows, position_ids=step.positions, use_cache=False)
                logits: Tensor = output.logits
                return logits
        finally:
            ACTIVE.pop()


def decode(decoder: Decoder, round_: Round, tokens: int) -> list[list[int]]:
    """Run rounds until every sequence has so many new tokens; returns the new tokens of every sequence."""
    start = len(decoder.tokens[0])
    while min(len(sequence) for sequence in decoder.tokens) < start + tokens:
        round_(decoder)
    return [sequence[start : start + tokens] for sequence in decoder.tokens]


def plain_round(decoder: Decoder) -> list[list[int]]:
    """Decode one token a sequence with the target model: what drafting is checked against."""
    new = decoder.verify([])
    decoder.release_staging()
    return new
