"""The draft–verify loop with greedy acceptance: it gives exactly the tokens of decoding one at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moe_compiler.runtime.kernels import ACTIVE, CaughtLinear, Kernels, Step
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.store import ExpertStore

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
        self.drafted = self.accepted = self.rounds = 0
        self._prefill()

    def start_round(self) -> None:
        """Start to load what this round is sure to need."""
        self.store.start_round()

    def draft_step(self, step: int, drafts: list[Tensor]) -> Tensor:
        """Run one draft step; returns the drafted token of every sequence: [batch]."""
        last = drafts[-1] if drafts else torch.tensor([sequence[-1] for sequence in self.tokens])
        positions = torch.tensor([len(sequence) - 1 + step for sequence in self.tokens])
        logits = self._run(last[:, None], positions[:, None], is_draft=True)
        return torch.argmax(logits[:, -1], dim=1)

    def verify_step(self, drafts: list[Tensor]) -> list[list[int]]:
        """Verify drafted tokens and append what the target model says; returns the new tokens of every sequence."""
        last = torch.tensor([[sequence[-1]] for sequence in self.tokens])
        rows = torch.cat([last, *(draft[:, None] for draft in drafts)], dim=1)
        first = torch.tensor([[len(sequence) - 1] for sequence in self.tokens])
        choices = torch.argmax(self._run(rows, first + torch.arange(rows.shape[1]), is_draft=False), dim=2).tolist()
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
        return result

    def release_staging(self) -> None:
        """Free staging at the end of a round."""
        self.store.release_staging()

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
            self._run(rows, torch.full_like(rows, position), is_draft=False)
        self.store.release_staging()
        self.store.forget()

    def _run(self, rows: Tensor, positions: Tensor, is_draft: bool) -> Tensor:
        self.kernels.step = Step(is_draft, positions)
        ACTIVE.append(self.kernels)
        try:
            with torch.inference_mode(), CaughtLinear(self.kernels):
                output: Any = self.model.module(input_ids=rows, position_ids=positions, use_cache=False)
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
    new = decoder.verify_step([])
    decoder.release_staging()
    return new
