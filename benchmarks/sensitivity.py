"""How far the answer moves with what is not published: figures of a hardware file, choices of ours. Table, or --json.

    python benchmarks/sensitivity.py [MODEL [TARGET]]
    python benchmarks/sensitivity.py --choices [MODEL [TARGET]]

Assumed figures are halved and doubled, each with a whole compile. Of a modelling choice every alternative is tried as
in auto.py: select-draft anew, the plan dispatched on held-out rounds with every expert striped over all banks. Time and
energy are of a token, relative to what is usual.
"""

import argparse
import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from auto import Model, bench_for, held_out_seconds
from measure import compile_once
from moe_passes.plan import acceptance
from moe_passes.plan.decisions import FROZEN
from moe_passes.solve.draft import prepare
from moe_passes.solve.draft.solver import solve

from moe_compiler.hardware.loader import load_target
from moe_compiler.traces import synthetic
from moe_compiler.traces.like import MEASURED, like_of


def assumed_figures(target: str) -> list[tuple[str, float]]:
    """List (path, value) of every number that the file marks as assumed, zeros and `auto` left out."""
    figures = load_target(target).figures()
    return [
        (row["path"], row["value"])
        for row in figures
        if row["source"].startswith("assumed") and not isinstance(row["value"], bool | str) and row["value"]
    ]


def answer(model: str, target: str, *options: str) -> tuple[float, float]:
    """Return held-out seconds and joules per token."""
    cost = compile_once(model, target, *options)["cost"]
    return cost["token"]["seconds"], cost["token"]["joules"]


def rows(model: str, target: str) -> Iterator[dict[str, Any]]:
    seconds, joules = answer(model, target)
    for path, value in assumed_figures(target):
        row: dict[str, Any] = {"figure": path, "value": value}
        for label, factor in (("halved", 0.5), ("doubled", 2.0)):
            changed = answer(model, target, "--set", f"{path}={value * factor:g}")
            row[label] = {"seconds": changed[0] / seconds - 1, "joules": changed[1] / joules - 1}
        yield row


Patch = tuple[Any, str, Any]
"""Of an object, an attribute and another value."""


def choices(model: str) -> dict[str, dict[str, Any]]:
    """List modelling choices and their alternatives: patches, `--set` texts, or another routing."""
    no_copies = lambda cost, of, placed: {cost.space().banks: 0}  # noqa: E731
    return {
        "routing": {f"like {like}": {"like": like} for like in MEASURED if like != like_of(model)},
        "residents follow the routing": {"frozen": {"patch": (prepare, "RULES", (FROZEN,))}},
        "dense weights may be sliced in the draft": {"never": {"bits": 8}},
        "what is not sliced wins back half of its share": {
            "nothing": {"patch": (acceptance, "UNSLICED_GAIN", 0.0)},
            "all": {"patch": (acceptance, "UNSLICED_GAIN", 1.0)},
        },
        "spread of p over rounds, a + b = 3": {
            "1": {"patch": (acceptance, "CONCENTRATION", 1.0)},
            "10": {"patch": (acceptance, "CONCENTRATION", 10.0)},
        },
        "draft routes exactly as the target in 44 %": {
            "22 %": {"patch": (synthetic, "SAME", 0.22)},
            "66 %": {"patch": (synthetic, "SAME", 0.66)},
        },
        "the aggregation link carries every sum": {"it reduces": {"set": ("links.aggregation.reduces=true",)}},
        "KV layout is chosen": {"striped over all banks": {"patch": (prepare, "_copies_bytes", no_copies)}},
        "γ up to 16": {"8": {"patch": (prepare, "LONGEST_AUTO", 8)}, "24": {"patch": (prepare, "LONGEST_AUTO", 24)}},
    }


@contextlib.contextmanager
def patched(patch: Patch | None) -> Iterator[None]:
    with mock.patch.object(*patch) if patch else contextlib.nullcontext():
        yield


def token(model: Model, target: str, how: dict[str, Any]) -> dict[str, Any]:
    """Return held-out seconds per token and γ of the plan under an alternative."""
    with patched(how.get("patch")):
        like = how.get("like", like_of(model.name))
        bench, trace = bench_for(model, target, 1, like, how.get("set", ()))
        if "bits" in how:
            rates = bench.problem.rates
            kept = {key: value for key, value in rates.draft_dense_seconds.items() if key[0] == how["bits"]}
            bench = replace(bench, problem=replace(bench.problem, rates=replace(rates, draft_dense_seconds=kept)))
        best = solve(bench.problem, bench.seconds, bench.longer_seconds).best
        seconds = held_out_seconds(bench, best.choice, trace) / best.tokens
    return {"seconds": seconds, "length": best.choice.setting.length}


def choice_rows(name: str, target: str) -> Iterator[dict[str, Any]]:
    model = Model(name)
    usual = token(model, target, {})
    yield {"choice": "as it is", "alternative": "–", **usual, "change": 0.0}
    for choice, alternatives in choices(name).items():
        for alternative, how in alternatives.items():
            found = token(model, target, how)
            change = found["seconds"] / usual["seconds"] - 1
            yield {"choice": choice, "alternative": alternative, **found, "change": change}


def show_choices(table: Iterable[dict[str, Any]]) -> None:
    print("| choice | instead | γ | token time |")
    print("|---|---|---|---|")
    for row in table:
        change = f"{row['seconds'] * 1e3:.2f} ms" if row["alternative"] == "–" else f"{row['change']:+.1%}"
        print(f"| {row['choice']} | {row['alternative']} | {row['length']} | {change} |", flush=True)


def show_figures(table: Iterable[dict[str, Any]]) -> None:
    print("| assumed figure | value | token time, halved | doubled | token energy, halved | doubled |")
    print("|---|---|---|---|---|---|")
    for row in table:
        cells = [f"{row[label][what]:+.1%}" for what in ("seconds", "joules") for label in ("halved", "doubled")]
        print(f"| `{row['figure']}` | {row['value']:g} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="qwen3-30b-a3b", help="default: qwen3-30b-a3b")
    parser.add_argument("target", nargs="?", default="elmoe3d-8gb", help="default: elmoe3d-8gb")
    parser.add_argument("--choices", action="store_true", help="modelling choices instead of assumed figures")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    table = (choice_rows if options.choices else rows)(options.model, options.target)
    if options.json:
        print(json.dumps({"model": options.model, "target": options.target, "rows": list(table)}, indent=1))
        return
    (show_choices if options.choices else show_figures)(table)


if __name__ == "__main__":
    main()
