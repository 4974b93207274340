"""The draft–verify loop: it gives exactly the tokens of decoding one at a time, or draws from the same distribution."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moe_compiler.runtime.bounded import reason_of
from moe_compiler.runtime.kernels import ACTIVE, CaughtLinear, Kernels, Step
from moe_compiler.runtime.memory import is_exhausted
from moe_compiler.runtime.model import Executable
from moe_compiler.runtime.plan import Plan
from moe_compiler.runtime.replay import Departures, Replay
from moe_compiler.runtime.sampling import Chooser, Sampling
from moe_compiler.runtime.store import IN_ORDER, NEVER, EngineRule, ExpertStore, Near

Round = Callable[["Decoder"], list[list[int]]]
PROMPT_TOKENS = 64
"""Of a prompt that are computed at once."""
AS_THEY_ARRIVE = EngineRule("free")


class Decoder:
    """One model, its experts, its KV cache, and the sequences that are being decoded.

    Attributes:
        tokens: the sequences so far, prompt included.
        active: numbers of the sequences that rounds go on with.
        drafted: drafted tokens.
        accepted: drafted tokens that verify accepted.
        accepted_lengths: in how many rounds of a sequence so many drafted tokens were accepted.
        rounds: verify steps.
    """

    def __init__(
        self,
        model: Executable,
        plan: Plan,
        prompts: list[list[int]],
        capacity: int,
        sampling: Sampling | None = None,
        near: Near | None = None,
    ) -> None:
        """Read the residents, unless they are there, and the prompts.

        Args:
            model: that decodes.
            plan: by which.
            prompts: tokens of each sequence.
            capacity: tokens in each cache.
            sampling: how tokens are drawn; None: the likeliest is taken.
            near: the residents, as an earlier decoder of this plan left them.

        Raises:
            ValueError: a prompt is empty, the model cannot be run here, or an expert is damaged.
        """
        if not prompts or not all(prompts):
            raise ValueError("a prompt has no tokens; valid: at least 1")
        self.model, self.plan = model, plan
        self.store = ExpertStore(plan, model.far, near)
        self.kernels = Kernels(
            self.store,
            len(prompts),
            capacity,
            dict(model.dense),
            model.embeddings,
            activation_bits=model.activation_bits,
            processor=model.processor,
        )
        for part in model.experts:
            self.kernels.routers[id(part.router)] = part.layer
            self.kernels.experts_layer[id(part.module)] = part.layer
            self.kernels.top_k[part.layer] = part.top_k
        self.tokens = [list(prompt) for prompt in prompts]
        self.active = list(range(len(prompts)))
        self.drafted = self.accepted = self.rounds = 0
        self.accepted_lengths: Counter[int] = Counter()
        self._choosers = [Chooser(sampling, number) for number in self.active]
        try:
            self._check_model()
            self._prefill()
        except BaseException:
            self.close()
            raise

    def _check_model(self) -> None:
        """Refuse a model that this runtime would compute wrongly: every layer's state must be a cache that it keeps.

        Raises:
            ValueError: a layer has another state, or the model's code needs what is not here.
        """
        settings: Any = self.model.module.config
        kind, layers = settings.model_type, settings.num_hidden_layers
        try:
            self.read(0, self.tokens[0][:1])
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            if is_exhausted(error):
                raise
            raise ValueError(f"{kind} cannot be run here: {reason_of(error)}") from error
        missing = sorted(set(range(layers)) - set(self.kernels.keys))
        if missing:
            raise ValueError(
                f"{kind} cannot be run here: layers {', '.join(map(str, missing[:8]))} keep another state than an "
                "attention cache; it can be compiled and estimated. Valid: a model of attention layers"
            )

    @property
    def acceptance_rate(self) -> float | None:
        """Share of drafted tokens that verify accepted; None where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

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
            The drafted token of every active sequence: [sequence].
        """
        self.store.least_permille, self.store.order = least_permille, order
        last = drafts[-1] if drafts else torch.tensor([self.tokens[n][-1] for n in self.active])
        positions = torch.tensor([[len(self.tokens[n]) - 1 + step] for n in self.active])
        logits = self._run(last[:, None], Step(True, positions, self.active, step))
        chosen = [self._choosers[n].draft(row) for n, row in zip(self.active, logits[:, -1], strict=True)]
        return torch.tensor(chosen)

    def verify(self, drafts: list[Tensor], rule: EngineRule = IN_ORDER) -> list[list[int]]:
        """Verify drafted tokens and append what the target model says.

        Args:
            drafts: what the draft steps gave.
            rule: how experts are computed.

        Returns:
            The new tokens of every active sequence.
        """
        self.store.rule = rule
        rows = self._rows(drafts)
        first = torch.tensor([[len(self.tokens[n]) - 1] for n in self.active])
        step = Step(False, first + torch.arange(rows.shape[1]), self.active, len(drafts), rule.engine)
        logits, result = self._run(rows, step), []
        for number, row, scores in zip(self.active, rows.tolist(), logits, strict=True):
            new = self._choosers[number].verify(row[1:], scores)
            self.tokens[number].extend(new)
            result.append(new)
            self.drafted += len(drafts)
            self.accepted += len(new) - 1
            self.accepted_lengths[len(new) - 1] += 1
        self.rounds += 1
        return result

    def _rows(self, drafts: list[Tensor]) -> Tensor:
        """Return the last token of every active sequence and what was drafted after it: [sequence, width]."""
        last = torch.tensor([[self.tokens[n][-1]] for n in self.active])
        return torch.cat([last, *(draft[:, None] for draft in drafts)], dim=1)

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
        """Stop loading, and let the caches go."""
        self.store.close()
        self.kernels.keys.clear()
        self.kernels.values.clear()

    def read(self, sequence: int, tokens: list[int], is_draft: bool = False) -> None:
        """Run tokens that are known, in blocks, from the beginning of a sequence on.

        Args:
            sequence: whose cache they go to.
            tokens: that are run.
            is_draft: whether with the draft's weights and experts.
        """
        self.store.rule = AS_THEY_ARRIVE
        for first in range(0, len(tokens), PROMPT_TOKENS):
            block = torch.tensor([tokens[first : first + PROMPT_TOKENS]])
            positions = torch.arange(first, first + block.shape[1])[None]
            self._run(block, Step(is_draft, positions, [sequence], engine=AS_THEY_ARRIVE.engine))

    def _prefill(self) -> None:
        """Run all prompt tokens but the last of each sequence; residents follow them, and rounds from then on."""
        rule, every = self.plan.hot_set, max((part.experts for part in self.model.experts), default=0)
        # A block loads most experts of a layer anyway, so all that are hotter may change.
        self.store.following = replace(rule, most=every, every_rounds=1)
        for number, sequence in enumerate(self.tokens):
            self.read(number, sequence[:-1])
        self.store.following = rule
        self.store.release_staging()
        self.store.forget()

    def _run(self, rows: Tensor, step: Step) -> Tensor:
        """Run a step: logits [.., vocabulary] for token ids, on a CPU as they are."""
        device = self.model.processor.device
        self.kernels.step = step = replace(step, positions=step.positions.to(device))
        self.store.record.step_begins(step.number, step.is_draft)
        ACTIVE.append(self.kernels)
        try:
            with torch.inference_mode(), CaughtLinear(self.kernels):
                ids = rows.to(device)
                output: Any = self.model.module(input_ids=ids, position_ids=step.positions, use_cache=False)
                logits: Tensor = output.logits.cpu()
                self.store.record.so_far("head")
                return logits
        finally:
            ACTIVE.pop()


def decode(decoder: Decoder, round_: Round, tokens: int) -> list[list[int]]:
    """Run rounds until every sequence has so many new tokens; returns the new tokens of every sequence."""
    return [found[:tokens] for found in generate(decoder, round_, tokens)]


Heard = Callable[[int, list[int]], None]
"""Hears new tokens: the sequence's number, and the tokens."""


def generate(
    decoder: Decoder, round_: Round, tokens: int, ends: frozenset[int] = frozenset(), hear: Heard | None = None
) -> list[list[int]]:
    """Run rounds until every sequence has ended.

    Args:
        decoder: its sequences are gone on with.
        round_: one round.
        tokens: that a sequence gets at most.
        ends: tokens that end a sequence; such a one is its last.
        hear: is told of new tokens as they are there.

    Returns:
        The new tokens of every sequence.
    """
    start = [len(sequence) for sequence in decoder.tokens]
    record, traffic = decoder.store.record, decoder.store.staging.traffic
    record.begin()
    while decoder.active:
        before = {number: len(decoder.tokens[number]) for number in decoder.active}
        begun, loaded = record.now(), traffic.bytes
        round_(decoder)
        brought = sum(len(decoder.tokens[number]) - had for number, had in before.items())
        record.round_ends(begun, len(before), brought, traffic.bytes - loaded)
        for number, had in before.items():
            sequence = decoder.tokens[number]
            last = next((n for n in range(had, len(sequence)) if sequence[n] in ends), len(sequence) - 1)
            del sequence[min(last + 1, start[number] + tokens) :]
            if hear is not None:
                hear(number, sequence[had:])
            if sequence[-1] in ends or len(sequence) >= start[number] + tokens:
                decoder.active = [other for other in decoder.active if other != number]
    return [sequence[first:] for sequence, first in zip(decoder.tokens, start, strict=True)]


def plain_round(decoder: Decoder) -> list[list[int]]:
    """Decode one token a sequence with the target model: what drafting is checked against."""
    new = decoder.verify([])
    decoder.release_staging()
    return new
