"""`moec run`: generate text with a compiled schedule and a store of weights."""

import ast
import contextlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_passes.plan.errors import InputError

from moe_compiler.backend.program import check_is_ours
from moe_compiler.documents.run import RunDocument, SequenceEntry
from moe_compiler.paths import read_text

if TYPE_CHECKING:
    from moe_compiler.runtime.decoder import Decoder, Round
    from moe_compiler.runtime.model import Executable
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.sampling import Sampling
    from moe_compiler.runtime.store_file import StoreFile

MOST_TOKENS = 1_000_000
LARGEST_PROGRAM = 2**20
LARGEST_PROMPT = 2**24
UNIMPORTANT = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "use_cache",
)
"""Fields of a configuration that say nothing of what its weights are."""
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
        far_bandwidth_gb_s: that reads of the store are held to (emulated); None: as fast as they are.
    """

    max_new_tokens: int
    temperature: float | None = None
    top_p: float = 1.0
    seed: int = 0
    check: bool = False
    far_bandwidth_gb_s: float | None = None

    def check_values(self) -> None:
        """Refuse values that cannot be.

        Raises:
            InputError: one is out of range.
        """
        if not 1 <= self.max_new_tokens <= MOST_TOKENS:
            raise InputError(f"--max-new-tokens {self.max_new_tokens}; valid: 1 to {MOST_TOKENS:,}")
        if self.temperature is not None and not 1e-3 <= self.temperature <= 1e3:
            raise InputError(f"--temperature {self.temperature:g}; valid: 0.001 to 1000 (without --sample: greedy)")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p {self.top_p:g}; valid: above 0, at most 1")
        if self.far_bandwidth_gb_s is not None and not 1e-6 <= self.far_bandwidth_gb_s <= 1e6:
            raise InputError(f"--far-bandwidth {self.far_bandwidth_gb_s:g}; valid: 1e-6 to 1e6 GB/s")
        if self.check and self.temperature is not None:
            raise InputError("--check with --sample: drawn tokens cannot be compared one by one; valid: one of them")


@dataclass
class Runner:
    """A compiled folder with a store: what prompts are given to.

    Attributes:
        plan: of the folder.
        context: tokens in each cache that was compiled for.
        round_: one round of its schedule.
        draft_length: γ.
        store: the weights.
        model: that the weights are of.
        words: the tokenizer.
        ends: tokens that end a sequence.
        baseline_bytes: of memory that the process had before.
    """

    plan: "Plan"
    context: int
    round_: "Round"
    draft_length: int
    store: "StoreFile"
    model: "Executable"
    words: Any
    ends: frozenset[int]
    baseline_bytes: int

    @staticmethod
    def open(folder: str | Path, weights: str | Path, far_bandwidth_gb_s: float | None = None) -> "Runner":
        """Open a compiled folder and a store of the same model.

        Raises:
            InputError: the folder is no compile of ours or edited by hand, or the store is damaged or another model's.
        """
        from moe_compiler.runtime.model import from_store, skeleton
        from moe_compiler.runtime.plan import Plan
        from moe_compiler.runtime.store_file import StoreFile
        from moe_compiler.runtime.words import tokenizer

        path = Path(folder)
        context = _context(path)
        constants, round_ = _program(path / "schedule.py")
        try:
            plan = Plan.load(path / "plan.npz")
            store = StoreFile(Path(weights), far_bandwidth_gb_s and far_bandwidth_gb_s * 1e9)
            _check_same_model(plan.config, store.entries.config, path, Path(weights))
            words = tokenizer(store)
            skeleton(store.entries.config)  # What it imports is no part of what the run takes.
            baseline = reset_peak()
            model = from_store(store)
        except ValueError as error:
            raise InputError(str(error)) from None
        length, ends = constants["DRAFT_LENGTH"], _ends(store, words)
        return Runner(plan, context, round_, length, store, model, words, ends, baseline)

    def run(self, prompts: Sequence[str], asked: Asked, hear: Hear | None = None) -> dict[str, Any]:
        """Generate what follows each prompt.

        Raises:
            InputError: a prompt is empty or too long, or there are too many.
            CheckFailedError: a check was asked for and failed.
        """
        from moe_compiler.runtime.decoder import generate

        asked.check_values()
        ids = [self._ids(number, prompt, asked.max_new_tokens) for number, prompt in enumerate(prompts)]
        if not ids or len(ids) > self.plan.batch:
            raise InputError(f"{len(ids)} prompts; valid: 1 to {self.plan.batch}, the batch that was compiled for")
        start = time.perf_counter()
        decoder = self._decoder(ids, asked, self.plan)
        said = _Said(self.words, hear)
        try:
            begun = time.perf_counter()
            new = generate(decoder, self.round_, asked.max_new_tokens, self.ends, said)
            seconds = time.perf_counter() - begun
        except ValueError as error:
            raise InputError(str(error)) from None
        finally:
            decoder.close()
        peak = peak_bytes() - self.baseline_bytes
        same = self._checked(ids, new, asked) if asked.check else None
        return self._report(prompts, new, decoder, (begun - start, seconds), peak, same).content()

    def _ids(self, number: int, prompt: str, new_tokens: int) -> list[int]:
        ids: list[int] = self.words(prompt)["input_ids"]
        if not ids:
            raise InputError(f"prompt {number + 1} is empty; valid: at least one token")
        if len(ids) + new_tokens > self.context:
            raise InputError(
                f"prompt {number + 1} has {len(ids):,} tokens, and {new_tokens:,} new ones would follow: more than the "
                f"context of {self.context:,} that was compiled for; valid: a shorter prompt, fewer --max-new-tokens, "
                "or a compile with a larger --context"
            )
        return ids

    def _decoder(self, ids: list[list[int]], asked: Asked, plan: "Plan") -> "Decoder":
        from moe_compiler.runtime.decoder import Decoder

        # Rounds run in lockstep, and the last one of a sequence may bring γ tokens too many.
        capacity = max(map(len, ids)) + asked.max_new_tokens + self.draft_length + 1
        try:
            return Decoder(self.model, plan, ids, capacity, _sampling(asked))
        except ValueError as error:
            raise InputError(str(error)) from None

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

    def _report(
        self,
        prompts: Sequence[str],
        new: list[list[int]],
        decoder: "Decoder",
        seconds: tuple[float, float],
        peak: int,
        same: str | None,
    ) -> RunDocument:
        from moe_compiler.runtime.linear import KERNEL

        traffic, rate = decoder.store.staging.traffic, self.store.bytes_per_second
        return RunDocument(
            sequences=[
                SequenceEntry(prompt=prompt, text=self.words.decode(tokens, skip_special_tokens=True), token_ids=tokens)
                for prompt, tokens in zip(prompts, new, strict=True)
            ],
            tokens_per_second=sum(map(len, new)) / seconds[1],
            prompt_seconds=seconds[0],
            acceptance_rate=decoder.accepted / decoder.drafted if decoder.drafted else None,
            draft_length=self.draft_length,
            rounds=decoder.rounds,
            bytes_loaded=traffic.bytes,
            load_seconds=traffic.seconds,
            hidden_load_seconds=max(0.0, traffic.seconds - traffic.waited_seconds),
            peak_bytes=peak,
            near_bytes=decoder.store.near.bytes,
            staging_bytes=decoder.store.staging.bytes,
            far="direct reads" if self.store.is_direct else "reads through the page cache",
            far_bandwidth_gb_s=rate and rate / 1e9,
            is_emulated=rate is not None,
            kernel=KERNEL,
            check=same,
        )


class _Said:
    """Turns new tokens into new text: a character may need several tokens."""

    def __init__(self, words: Any, hear: Hear | None) -> None:
        self.words, self.hear = words, hear
        self._tokens: dict[int, list[int]] = {}
        self._shown: dict[int, str] = {}

    def __call__(self, number: int, tokens: list[int]) -> None:
        if self.hear is None:
            return
        every = self._tokens.setdefault(number, [])
        every += tokens
        text = self.words.decode(every, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            self.hear(number, text[len(self._shown.get(number, "")) :])
            self._shown[number] = text


def _sampling(asked: Asked) -> "Sampling | None":
    from moe_compiler.runtime.sampling import Sampling

    return None if asked.temperature is None else Sampling(asked.temperature, asked.top_p, asked.seed)


def _context(folder: Path) -> int:
    """Return the tokens in each cache that a folder was compiled for."""
    try:
        content = json.loads(read_text(folder / "plan.json"))
        if content["schema"] != 1:
            raise InputError(f"{folder}: plan.json is of schema {content['schema']}; valid: 1; compile again")
        return int(content["context"])
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        reason = "plan.json is missing or damaged"
        raise InputError(f"{folder}: is no compile of ours: {reason}; valid: -o of moec compile") from None


def _program(path: Path) -> tuple[dict[str, Any], "Round"]:
    """Read a schedule.py, of which nothing but constants may differ from what we write, and return its round."""
    try:
        text = read_text(path, LARGEST_PROGRAM)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    check_is_ours(text, str(path))
    space: dict[str, Any] = {"__name__": "schedule", "__file__": str(path)}
    exec(compile(ast.parse(text), str(path), "exec"), space)
    return space, space["round_"]


def _check_same_model(compiled: dict[str, Any], packed: dict[str, Any], folder: Path, store: Path) -> None:
    for key in sorted({*compiled, *packed} - set(UNIMPORTANT)):
        if compiled.get(key) != packed.get(key):
            raise InputError(
                f"{store}: is of another model than {folder}: {key} is {str(packed.get(key))[:60]}, and "
                f"{str(compiled.get(key))[:60]} was compiled; valid: a store of the compiled model"
            )


def _ends(store: "StoreFile", words: Any) -> frozenset[int]:
    """Return the tokens that end a sequence: of the generation settings, else of the configuration or the tokenizer."""
    stated: list[Any] = []
    if "generation_config.json" in store.entries.files:
        with contextlib.suppress(ValueError, AttributeError, RecursionError):
            stated.append(json.loads(store.file("generation_config.json")).get("eos_token_id"))
    stated += [store.entries.config.get("eos_token_id"), words.eos_token_id]
    found = next((value for value in stated if value is not None), None)
    values = found if isinstance(found, list) else [found]
    return frozenset(value for value in values if isinstance(value, int))


def reset_peak() -> int:
    """Let the peak of this process's memory begin anew; returns what it has now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most memory that this process has had since `reset_peak`."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
