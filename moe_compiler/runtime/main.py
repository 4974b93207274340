"""The command line of an emitted schedule.py."""

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from moe_compiler.runtime.decoder import Decoder, Round, decode, plain_round
from moe_compiler.runtime.model import Executable, build
from moe_compiler.runtime.plan import Plan, frozen

EXIT_INPUT = 2
EXIT_DIFFERENT = 5


def main(program: str, round_: Round, draft_length: int) -> None:
    """Build the model, decode, print token ids; with `--check`, compare with plain greedy decoding.

    Args:
        program: path of the program; its plan lies beside it.
        round_: one round.
        draft_length: γ.
    """
    options = _parse()
    try:
        plan = Plan.load(Path(program).with_name("plan.npz"))
        model = build(plan.config, options.weights, options.seed)
        prompts = _prompts(options.prompt, plan.batch, int(plan.config["vocab_size"]))
    except ValueError as error:
        print(f"schedule.py: error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    # Rounds run in lockstep: while the slowest sequence gains one token a round, another may gain γ + 1.
    capacity = len(prompts[0]) + (options.tokens + 1) * (draft_length + 1)
    report = _replay if options.replay else _decode
    _finish(report(model, plan, prompts, capacity, round_, options), options.json)


def _finish(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name}: {value}")
    same = report.get("same_as_plain_greedy", True) and report.get("same_as_planned", True)
    sys.exit(0 if same else EXIT_DIFFERENT)


def _weights(options: argparse.Namespace) -> str:
    return str(options.weights) if options.weights else f"random, seed {options.seed} (synthetic)"


def _replay(
    model: Executable,
    plan: Plan,
    prompts: list[list[int]],
    capacity: int,
    round_: Round,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Run the scheduled round and say where execution left the plan."""
    # The prompt must leave the residents as they were planned.
    with closing(Decoder(model, frozen(plan), prompts, capacity)) as decoder:
        found = decoder.replay()
    return {
        "weights": _weights(options),
        "replayed": "the scheduled round: its routing, order of loads and computations, and addresses",
        "loads": len(found.loads),
        "computations": len(found.computations),
        "same_as_planned": not found.notes,
        "departures": found.notes,
        "bytes_without_room": found.spilled_bytes,
    }


def _decode(
    model: Executable,
    plan: Plan,
    prompts: list[list[int]],
    capacity: int,
    round_: Round,
    options: argparse.Namespace,
) -> dict[str, Any]:
    with closing(Decoder(model, plan, prompts, capacity)) as decoder:
        produced = decode(decoder, round_, options.tokens)
    report: dict[str, Any] = {
        "weights": _weights(options),
        "tokens": produced,
        "rounds": decoder.rounds,
        "drafted": decoder.drafted,
        "accepted": decoder.accepted,
        "acceptance_rate": decoder.acceptance_rate,
        "loads": len(decoder.store.loads),
        "computed_far": decoder.store.computed_far,
        "promoted": decoder.store.promoted,
        "dispatched": decoder.store.dispatched,
        "dispatch_microseconds": _mean_microseconds(decoder),
    }
    if options.check:
        with closing(Decoder(model, frozen(plan), prompts, capacity)) as reference:
            report["same_as_plain_greedy"] = decode(reference, plain_round, options.tokens) == produced
    return report


def _mean_microseconds(decoder: Decoder) -> float | None:
    store = decoder.store
    return store.dispatch_seconds / store.dispatched * 1e6 if store.dispatched else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the draft–verify loop that moe-compiler planned.")
    parser.add_argument("--tokens", type=_count, default=32, help="new tokens of every sequence (default: 32)")
    parser.add_argument("--prompt", default="1,2,3", help="token ids, comma-separated (default: 1,2,3)")
    parser.add_argument("--weights", type=Path, help="folder with *.safetensors; default: seeded random weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (default: 0)")
    parser.add_argument("--check", action="store_true", help="compare with plain greedy decoding; exit 5 if different")
    parser.add_argument(
        "--replay", action="store_true", help="run the very round that was scheduled; exit 5 where it left the plan"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}; valid: 1 to 100,000")
    return value


def _prompts(text: str, batch: int, vocabulary: int) -> list[list[int]]:
    try:
        tokens = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--prompt {text}: valid: token ids, comma-separated") from None
    # Sequences of a batch must differ, or they would all route alike: each starts one token further.
    prompts = [[(token + number) % vocabulary for token in tokens] for number in range(batch)]
    if not tokens or any(not 0 <= token < vocabulary for token in tokens):
        raise ValueError(f"--prompt {text}: valid: token ids from 0 to {vocabulary - 1}")
    return prompts
