"""`moec run`: generate text with a compiled schedule and a store of weights."""

import ast
import contextlib
import errno
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_passes.plan.errors import InputError

from moe_compiler.backend.folder import write_bytes
from moe_compiler.backend.program import check_is_ours
from moe_compiler.documents.base import to_json
from moe_compiler.documents.cost import CostDocument
from moe_compiler.documents.folder import read_folder
from moe_compiler.documents.plan import PlanDocument
from moe_compiler.documents.run import RunDocument, SequenceEntry
from moe_compiler.paths import names_of, read_arrays, read_text
from moe_compiler.runtime.memory import is_exhausted

if TYPE_CHECKING:
    from moe_compiler.runtime.decoder import Decoder, Round
    from moe_compiler.runtime.model import Executable
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.sampling import Sampling
    from moe_compiler.runtime.store import Near
    from moe_compiler.runtime.store_file import StoreFile
    from moe_compiler.runtime.words import Words

MOST_TOKENS = 1_000_000
LARGEST_SEED = 2**31 - 1
LARGEST_PROGRAM = 2**20
LARGEST_PROMPT = 2**24
SMALLER = "a compile for a smaller near memory, batch or context"
ACTIVATION_BITS = (32, 8)
"""Of what matrices are multiplied with, to choose from: float32, or rounded."""
Hear = Callable[[int, str], None]
"""Hears new text: the number of the prompt, and the text."""


class CheckFailedError(Exception):
    """The schedule's tokens are not those of decoding one at a time."""


@dataclass(frozen=True)
class Asked:
    """What is to be generated.

    Attributes:
        max_new_tokens: that each prompt gets at most.
        temperature: where tokens are drawn, what logits are divided by; None: the likeliest is taken.
        top_p: tokens are drawn from the likeliest ones that have so much together.
        seed: of the draws.
        check: whether to decode once more, one token at a time, and compare.
        far_bandwidth_gb_s: that loads of experts are held to (emulated); None: as fast as they are.
        activation_bits: of what matrices are multiplied with: 32 (float32), or 8.
        is_chat: whether prompts were made by a chat template, and have their special tokens.
    """

    max_new_tokens: int
    temperature: float | None = None
    top_p: float = 1.0
    seed: int = 0
    check: bool = False
    far_bandwidth_gb_s: float | None = None
    activation_bits: int = ACTIVATION_BITS[0]
    is_chat: bool = False

    def check_values(self) -> None:
        """Refuse values that cannot be.

        Raises:
            InputError: one is out of range.
        """
        if not 1 <= self.max_new_tokens <= MOST_TOKENS:
            raise InputError(f"--max-new-tokens {self.max_new_tokens}; valid: 1 to {MOST_TOKENS:,}")
        if self.temperature is not None and not 1e-3 <= self.temperature <= 1e3:
            raise InputError(f"--temperature {self.temperature:g}; valid: 0.001 to 1000 (without --sample: greedy)")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"--seed {self.seed}; valid: 0 to {LARGEST_SEED:,}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p:g}; valid: above 0, at most 1")
        if self.far_bandwidth_gb_s is not None and not 1e-6 <= self.far_bandwidth_gb_s <= 1e6:
            raise InputError(f"--far-bandwidth {self.far_bandwidth_gb_s:g}; valid: 1e-6 to 1e6 GB/s")
        if self.activation_bits not in ACTIVATION_BITS:
            raise InputError(
                f"--activation-bits {self.activation_bits}; valid: {' or '.join(map(str, ACTIVATION_BITS))}"
            )
        if self.check and self.temperature is not None:
            raise InputError("--check with --sample: drawn tokens cannot be compared one by one; valid: one of them")


@dataclass
class Runner:
    """A compiled folder with a store: what prompts are given to.

    Attributes:
        folder: that was compiled.
        plan: of the folder.
        predicted: what it is said to cost.
        context: tokens in each cache that was compiled for.
        round_: one round of its schedule.
        draft_length: γ.
        store: the weights.
        model: that the weights are of.
        words: the tokenizer.
        ends: tokens that end a sequence.
        baseline_bytes: of memory that the process had before.
        near: the residents as the last run left them, where it did not fail; None: the next reads those of the plan.
    """

    folder: Path
    plan: "Plan"
    predicted: CostDocument
    context: int
    round_: "Round"
    draft_length: int
    store: "StoreFile"
    model: "Executable"
    words: "Words"
    ends: frozenset[int]
    baseline_bytes: int
    near: "Near | None" = None

    @staticmethod
    def open(
        folder: str | Path, weights: str | Path, far_bandwidth_gb_s: float | None = None, device: str = "cpu"
    ) -> "Runner":
        """Open a compiled folder and a store of the same model.

        Args:
            folder: that was compiled.
            weights: path of the store.
            far_bandwidth_gb_s: that loads of experts are held to (emulated); None: as fast as they are.
            device: `cpu`: experts are loaded from the store; `cuda`: from pinned memory, which has all of them.

        Raises:
            InputError: the folder is no compile of ours or edited by hand, the store is damaged or another model's, or
                there is no such device.
        """
        from moe_compiler.runtime.huggingface import difference
        from moe_compiler.runtime.machine import machine
        from moe_compiler.runtime.model import from_store, skeleton
        from moe_compiler.runtime.plan import Plan
        from moe_compiler.runtime.store_file import StoreFile
        from moe_compiler.runtime.words import Words

        path = Path(folder)
        context, length, cost, round_, rule = _compiled(path)
        try:
            data = path / "plan.npz"
            plan = Plan.of(read_arrays(data, set(names_of(data))), data)
            if vars(plan.hot_set) != rule:
                raise ValueError(f"{data}: its hot_set is not that of plan.json; compile again")
            runs_on = machine(device)
            store = StoreFile(Path(weights), far_bandwidth_gb_s and far_bandwidth_gb_s * 1e9)
            differs = difference(store.entries.config, plan.config)
            if differs:
                raise ValueError(
                    f"{store.path}: is of another model than {path}: {differs} was compiled; valid: a store of the "
                    "compiled model"
                )
            # What is imported and compiled is no part of what the run takes.
            runs_on.warm_up()
            bare = skeleton(store.entries.config)
            words = Words(store, bare.config.get_text_config().vocab_size)
            with _enough_memory(f"the experts of {store.path}", "more memory, or --device cpu"):
                far = runs_on.far(store)
            baseline = runs_on.processor.reset_peak()
            with _enough_memory(f"the dense weights of {store.path}"):
                model = from_store(store, far, runs_on.processor)
        except InputError:
            raise
        except (KeyError, ValueError) as error:
            raise InputError(str(error)) from None
        return Runner(path, plan, cost, context, round_, length, store, model, words, _ends(store, words), baseline)

    def run(self, prompts: Sequence[str], asked: Asked, hear: Hear | None = None) -> dict[str, Any]:
        """Generate what follows each prompt, from the residents of the plan on.

        Raises:
            InputError: a prompt is empty or too long, there are too many, or the store or its tokenizer is damaged.
            CheckFailedError: a check was asked for and failed.
        """
        asked.check_values()
        if not 1 <= len(prompts) <= self.plan.batch:
            raise InputError(f"{len(prompts)} prompts; valid: 1 to {self.plan.batch}, the batch that was compiled for")
        # What is drafted, and so what is drawn, depends on what is near: the same prompts get the same text.
        self.near = None
        return self._content(prompts, asked, hear)

    def _content(self, prompts: Sequence[str], asked: Asked, hear: Hear | None) -> dict[str, Any]:
        try:
            return self._run(prompts, asked, hear).content()
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from None

    def check_chat(self) -> None:
        """Refuse a conversation with a model that has no template for it.

        Raises:
            InputError: it has none.
        """
        try:
            self.words.chat([{"role": "user", "content": "?"}])
        except ValueError as error:
            raise InputError(str(error)) from None

    def answer(self, said: list[dict[str, str]], asked: Asked, hear: Hear | None = None) -> str:
        """Go on with a conversation, and with the residents as they are; returns what the model says.

        Raises:
            InputError: as `run`, or there is no chat template.
        """
        asked.check_values()
        try:
            prompt = self.words.chat(said)
        except ValueError as error:
            raise InputError(str(error)) from None
        found = self._content([prompt], replace(asked, is_chat=True), hear)
        return str(found["sequences"][0]["text"])

    def _run(self, prompts: Sequence[str], asked: Asked, hear: Hear | None) -> RunDocument:
        from moe_compiler.runtime.decoder import generate

        ids = [self._ids(number, prompt, asked) for number, prompt in enumerate(prompts)]
        start = time.perf_counter()
        # A run that fails may leave a resident half written.
        near, self.near = self.near, None
        decoder = self._decoder(ids, asked, self.plan, near)
        said = _Said(self.words, hear)
        try:
            begun = time.perf_counter()
            new = generate(decoder, self.round_, asked.max_new_tokens, self.ends, said)
            seconds = time.perf_counter() - begun
        finally:
            decoder.close()
        said.end()
        self.near = decoder.store.near
        peak = self.model.processor.peak_bytes() - self.baseline_bytes
        same = self._checked(ids, new, asked) if asked.check else None
        return self._report(prompts, new, decoder, (begun - start, seconds), peak, same)

    def _ids(self, number: int, prompt: str, asked: Asked) -> list[int]:
        ids, new_tokens = self.words.encode(prompt, asked.is_chat), asked.max_new_tokens
        if not ids:
            raise InputError(f"prompt {number + 1} is empty; valid: at least one token")
        if len(ids) + new_tokens > self.context:
            raise InputError(
                f"prompt {number + 1} has {len(ids):,} tokens, and {new_tokens:,} new ones would follow: more than the "
                f"context of {self.context:,} that was compiled for; valid: a shorter prompt, fewer --max-new-tokens, "
                "or a compile with a larger --context"
            )
        return ids

    def _decoder(self, ids: list[list[int]], asked: Asked, plan: "Plan", near: "Near | None" = None) -> "Decoder":
        from moe_compiler.runtime.decoder import Decoder

        # Rounds run in lockstep, and the last one of a sequence may bring γ tokens too many.
        capacity = max(map(len, ids)) + asked.max_new_tokens + self.draft_length + 1
        residents = sum(map(len, plan.resident.values()))
        takes = f"{residents} experts near, {plan.staging_slots} staged, and caches of {capacity} tokens"
        try:
            with _enough_memory(takes):
                model = replace(self.model, activation_bits=asked.activation_bits)
                return Decoder(model, plan, ids, capacity, _sampling(asked), near)
        except (IndexError, KeyError) as error:
            raise InputError(f"the plan names an expert or a layer that the model does not have: {error}") from None

    def _checked(self, ids: list[list[int]], new: list[list[int]], asked: Asked) -> str:
        """Decode once more, one token at a time, on the same weights."""
        from moe_compiler.runtime.decoder import generate, plain_round
        from moe_compiler.runtime.plan import Plan

        witness = self._decoder(ids, asked, Plan(staging_slots=2))
        try:
            expected = generate(witness, plain_round, asked.max_new_tokens, self.ends)
        finally:
            witness.close()
        for number, (found, right) in enumerate(zip(new, expected, strict=True)):
            if found != right:
                pairs = zip_longest(found, right)
                place, (had, expected_one) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
                raise CheckFailedError(
                    f"prompt {number + 1}: token {place + 1} is {had}, and {expected_one} when decoded one at a time"
                )
        return "equal"

    def _write_measured(self, decoder: "Decoder", prompt_tokens: int, prompt_seconds: float) -> str | None:
        """Write what was recorded beside what was predicted; returns where, if it could: the text counts more."""
        from moe_compiler.backend.measured import MeasuredRun, measured_document, measured_timeline

        record, rate = decoder.store.record, decoder.store.far.bytes_per_second
        bits, kernel = decoder.model.activation_bits, decoder.model.processor.kernel
        run = MeasuredRun(
            record, len(decoder.tokens), prompt_tokens, prompt_seconds, decoder.acceptance_rate, rate, bits, kernel
        )
        document = measured_document(run, self.plan, self.draft_length, self.predicted)
        trace = measured_timeline(record, self.draft_length, f"{self.predicted.model}, measured")
        path = self.folder / "measured.json"
        try:
            write_bytes(path, to_json(document.content()).encode())
            write_bytes(self.folder / "measured.perfetto-trace", trace)
        except InputError:
            return None
        return str(path)

    def _report(
        self,
        prompts: Sequence[str],
        new: list[list[int]],
        decoder: "Decoder",
        seconds: tuple[float, float],
        peak: int,
        same: str | None,
    ) -> RunDocument:
        traffic, rate = decoder.store.staging.traffic, decoder.store.far.bytes_per_second
        return RunDocument(
            sequences=[
                SequenceEntry(prompt=prompt, text=self.words.decode(tokens), token_ids=tokens)
                for prompt, tokens in zip(prompts, new, strict=True)
            ],
            tokens_per_second=sum(map(len, new)) / seconds[1],
            prompt_seconds=seconds[0],
            acceptance_rate=decoder.acceptance_rate,
            draft_length=self.draft_length,
            rounds=decoder.rounds,
            bytes_loaded=traffic.bytes,
            load_seconds=traffic.seconds,
            hidden_load_seconds=max(0.0, traffic.seconds - traffic.waited_seconds),
            peak_bytes=peak,
            near_bytes=decoder.store.near.bytes,
            staging_bytes=decoder.store.staging.bytes,
            far=decoder.store.far.kind,
            far_bandwidth_gb_s=rate and rate / 1e9,
            is_emulated=rate is not None,
            activation_bits=decoder.model.activation_bits,
            kernel=decoder.model.processor.kernel,
            check=same,
            measured=self._write_measured(decoder, sum(map(len, decoder.tokens)) - sum(map(len, new)), seconds[0]),
        )


class _Said:
    """Turns new tokens into new text: a character may need several tokens, so its beginning waits for its end."""

    def __init__(self, words: "Words", hear: Hear | None) -> None:
        self.words, self.hear = words, hear
        self._tokens: dict[int, list[int]] = {}
        self._shown: dict[int, str] = {}

    def __call__(self, number: int, tokens: list[int]) -> None:
        if self.hear is None:
            return
        self._tokens.setdefault(number, []).extend(tokens)
        self._show(number, self.words.decode(self._tokens[number]).rstrip("\ufffd"))

    def end(self) -> None:
        """Say what waited."""
        for number, tokens in self._tokens.items():
            self._show(number, self.words.decode(tokens))

    def _show(self, number: int, text: str) -> None:
        new = text[len(self._shown.get(number, "")) :]
        if self.hear is not None and new:
            self.hear(number, new)
            self._shown[number] = text


def _sampling(asked: Asked) -> "Sampling | None":
    from moe_compiler.runtime.sampling import Sampling

    return None if asked.temperature is None else Sampling(asked.temperature, asked.top_p, asked.seed)


def _compiled(path: Path) -> "tuple[int, int, CostDocument, Round, dict[str, Any]]":
    """Return context, draft length, cost, round and how residents follow, and keep nothing else of the plan in memory.

    Raises:
        InputError: it is no compile of ours, or edited by hand.
    """
    compiled = read_folder(path)
    round_ = _program(path / "schedule.py", compiled.plan)
    rule = compiled.plan.hot_set.model_dump()
    return compiled.plan.context, compiled.plan.draft.length, compiled.cost, round_, rule


def _program(path: Path, plan: PlanDocument) -> "Round":
    """Read a schedule.py, of which nothing but constants may differ from what we write, and return its round.

    Raises:
        InputError: it is not ours, or its constants are not those of the plan.
    """
    try:
        text = read_text(path, LARGEST_PROGRAM)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    check_is_ours(text, str(path))
    space: dict[str, Any] = {"__name__": "schedule", "__file__": str(path)}
    exec(compile(ast.parse(text), str(path), "exec"), space)
    carried = space["CARRIED"]
    found = {
        "length": space["DRAFT_LENGTH"],
        "sure_permille": space["SURE_PERMILLE"],
        "least_permille": space["LEAST_PERMILLE"],
        "order": space["ORDER"],
        "engine": space["ENGINE"],
        "most_far_tokens": space["MOST_FAR_TOKENS"],
        "late": space["LATE"],
    }
    stated = {"length": plan.draft.length, **plan.dispatch.model_dump()}
    wrong = [name for name, value in found.items() if stated.get(name) != value]
    counts = {layer.layer: len(layer.residency) for layer in plan.layers}
    if wrong or any(len(pair) != 2 or pair[1] not in range(counts.get(pair[0], 0)) for pair in carried):
        raise InputError(f"{path}: its {wrong[0] if wrong else 'CARRIED'} is not that of plan.json; compile again")
    round_: Round = space["round_"]
    return round_


def _ends(store: "StoreFile", words: "Words") -> frozenset[int]:
    """Return the tokens that end a sequence: of the generation settings, else of the configuration or the tokenizer."""
    stated: list[Any] = []
    if "generation_config.json" in store.entries.files:
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            stated.append(json.loads(store.file("generation_config.json")).get("eos_token_id"))
    stated += [store.entries.config.get("eos_token_id"), words.end]
    found = next((value for value in stated if value is not None), None)
    values = found if isinstance(found, list) else [found]
    return frozenset(value for value in values if isinstance(value, int))


@contextlib.contextmanager
def _enough_memory(what: str, valid: str = SMALLER) -> Iterator[None]:
    """Say what there was no memory for.

    Raises:
        InputError: there was none.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        if isinstance(error, RuntimeError) and not is_exhausted(error):
            raise
        raise InputError(f"out of memory: there is no room for {what}; valid: {valid}") from None
