"""Predictions beside what other people measured on real machines (../shared/data/measured.csv). Table, or --json.

    python benchmarks/measured.py [--json]

Of every machine, runtime and weight format two figures are fitted, a fixed time of a layer and one effective bandwidth
(of the memory, link or engine that limits it), on the rows with the smallest and the largest of what varies; the other
rows are predicted, those of other series of that machine, runtime and format among them. Where a series varies nothing
that a bandwidth shows in, the fixed time alone is fitted, on one row. A series counts if three other rows remain;
single rows are predicted by targets as they ship, and counted apart. Where a row states a hit rate, the prediction with
it stands beside the one without. Rows that are not used are listed with the reason.
"""

import argparse
import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from moe_passes.estimate.step import Choices, step_time
from moe_passes.plan.formats import parse_format
from moe_passes.plan.place import parse_place
from moe_passes.plan.tiers import Tiers

from moe_compiler.estimation import Asked, Routing, profile_of
from moe_compiler.frontend.shapes import shapes_of
from moe_compiler.hardware.loader import load_target

DATA = Path(os.environ.get("MOE_DATA", "../shared/data")) / "measured.csv"
SLOWEST, FASTEST = 1e6, 1e14
CELLS = 3
"""Slots of series S19 hold a projection of an expert: three are one."""

Row = dict[str, str]


@dataclass(frozen=True)
class Series:
    """Rows in which one thing varies, on one machine in one runtime and format.

    Attributes:
        name: of the series, and what it is of.
        rows: numbers of its rows.
        fitted: those that the two figures are fitted on, or the fixed time alone on one; perhaps of another series;
            none where the target is as it ships.
        model: a shipped name.
        target: a shipped name.
        format: of the weights.
        limited: what the fitted bandwidth is of: `near`, `far` or `link`.
        place: placement of a row.
        context: tokens, of a row.
    """

    name: str
    rows: tuple[str, ...]
    fitted: tuple[str, ...]
    model: str
    target: str
    format: str
    limited: str
    place: Callable[[Row], str] = lambda row: "all-near"
    context: Callable[[Row], int] = lambda row: max(1, int(row["context"] or 512))


def share(row: Row) -> str:
    order = "front" if "front" in row["placement"] else "random"
    return f"near-share={float(row['resident_fraction']):g}:{order}"


def slots(row: Row) -> str:
    count = int(row["cache_slots_or_budget"].split()[0]) // CELLS if row["cache_slots_or_budget"] else 0
    return f"cache={count}" if count and "bypassed" not in row["cache_slots_or_budget"] else "experts=loaded"


def numbers(first: int, last: int, step: int = 1) -> tuple[str, ...]:
    return tuple(f"M{n:03d}" for n in range(first, last + 1, step))


SERIES = (
    Series(
        "S01 gpt-oss-20b, batch, GB10",
        numbers(1, 6),
        ("M001", "M006"),
        "gpt-oss-20b",
        "dgx-spark-gb10",
        "gguf:mxfp4",
        "near",
    ),
    Series(
        "S01 Qwen3-Coder-30B Q8_0, batch, GB10",
        numbers(13, 18),
        ("M013", "M018"),
        "qwen3-30b-a3b",
        "dgx-spark-gb10",
        "gguf:q8_0",
        "near",
    ),
    Series(
        "S04 gpt-oss-120b, context, GB10",
        numbers(93, 97),
        ("M001", "M006"),
        "gpt-oss-120b",
        "dgx-spark-gb10",
        "gguf:mxfp4",
        "near",
    ),
    Series(
        "S04 Qwen3-Coder-30B Q8_0, context, GB10",
        numbers(98, 102),
        ("M013", "M018"),
        "qwen3-30b-a3b",
        "dgx-spark-gb10",
        "gguf:q8_0",
        "near",
    ),
    Series(
        "S04 gpt-oss-20b, context, M2 Ultra",
        numbers(115, 118),
        ("M115",),
        "gpt-oss-20b",
        "m2-ultra",
        "gguf:mxfp4",
        "near",
    ),
    Series(
        "S03 Qwen3-Coder-Next 46 GB, batch, Strix Halo",
        numbers(67, 71),
        ("M067", "M071"),
        "qwen3-next-80b-a3b",
        "strix-halo-128gb",
        "experts=4.6,dense=4.6,kv=16,embedding=4.6",
        "near",
    ),
    Series(
        "S15 Qwen3-Next-80B FP8, share near, 4x4090",
        numbers(492, 542, 5) + numbers(494, 544, 5),
        ("M494", "M544"),
        "qwen3-next-80b-a3b",
        "rtx4090x4-xeon6454s",
        "fp8",
        "far",
        share,
        lambda row: 512,
    ),
    Series(
        "S19 Qwen3-30B Q4_K_M, slots, 5090",
        ("M685", "M687", *numbers(691, 695)),
        ("M691", "M687"),
        "qwen3-30b-a3b",
        "rtx5090-pcie",
        "gguf:q4_k_m",
        "link",
        slots,
        lambda row: 256,
    ),
)


def _row(context: int, tokens_per_second: float, url: str) -> Row:
    return {"batch": "1", "context": str(context), "value": str(tokens_per_second), "hit_rate": "", "url": url}


STRIX_BENCH = "https://github.com/lhl/strix-halo-testing/issues/33"
STRIX_POST = "https://fromthematrix.dev/posts/local-llm-speed-benchmark-strix-halo"
FURTHER = {
    "P1": _row(1, 47.41, STRIX_BENCH),
    "P2": _row(4096, 44.14, STRIX_BENCH),
    "P3": _row(8192, 42.36, STRIX_BENCH),
    "P4": _row(7624, 52, STRIX_POST),
    "P5": _row(7624, 70, STRIX_POST),
    "P6": _row(7624, 61, STRIX_POST),
    "P7": _row(7624, 66, STRIX_POST),
    "P8": _row(7624, 49, STRIX_POST),
    "P9": _row(7624, 48, STRIX_POST),
}
"""Public figures that are not in the file: llama.cpp on a Strix Halo, by ROCm (P1 to P3) and Vulkan."""


def _strix(name: str, rows: tuple[str, ...], model: str, of: str) -> Series:
    return Series(f"{name}, Strix Halo", rows, (), model, "strix-halo-128gb", of, "near")


SINGLE = (
    _strix("S12 Qwen3.6-35B Q4_K_XL", ("M398", "M401"), "qwen3.5-35b-a3b", "gguf:q4_k_m"),
    _strix("gpt-oss-120b MXFP4", ("P1", "P2", "P3", "P4"), "gpt-oss-120b", "gguf:mxfp4"),
    _strix("gpt-oss-20b MXFP4", ("P5",), "gpt-oss-20b", "gguf:mxfp4"),
    _strix("Nemotron-3-Nano-30B Q4_K_M", ("P6",), "nemotron-3-nano-30b-a3b", "gguf:q4_k_m"),
    _strix("Qwen3-Coder-30B Q4_K_M", ("P7",), "qwen3-30b-a3b", "gguf:q4_k_m"),
    _strix("Qwen3.5-35B Q4_K_M", ("P8",), "qwen3.5-35b-a3b", "gguf:q4_k_m"),
    _strix("GLM-4.7-Flash Q5_K_M", ("P9",), "glm-4.7-flash", "gguf:q5_k_m"),
    Series(
        "S09 DeepSeek-V2-Lite Q4_0, RTX 3090", ("M287",), (), "deepseek-v2-lite", "rtx3090-host", "gguf:q4_0", "near"
    ),
    Series(
        "S16 Qwen3.6-35B Q8_0, experts of 22 layers on the CPU, RTX 3090",
        ("M595",),
        (),
        "qwen3.5-35b-a3b",
        "rtx3090-host",
        "gguf:q8_0",
        "far",
        lambda row: "layers=22:far",
    ),
    Series(
        "S16 Qwen3.5-35B Q8_0, all experts on the CPU, RTX 5080",
        ("M547",),
        (),
        "qwen3.5-35b-a3b",
        "rtx5080-ddr5",
        "gguf:q8_0",
        "far",
        lambda row: "experts=far",
        lambda row: 256,
    ),
)
"""Rows by themselves, or of machines whose target rests on them; Qwen3.6-35B-A3B has the shape of Qwen3.5-35B-A3B."""
RESTS_ON_SINGLE = ("strix-halo-128gb",)
"""Targets whose fixed times were chosen by single rows, which are no predictions of theirs then."""
UNUSED = {
    "M031-M036": "a dense model",
    "M288-M304": "S09: microbatches of a prompt; from one token to two the runtime changes kernels, and a step doubles",
    "M399-M400, M402-M409": "S12: what the draft head costs is not stated; a dense model",
    "M548-M552": "S16: contexts are 'medium' and 'long'; which layers `--fit on` moves is not stated",
    "M578-M583": "S16: the configuration of Qwen3.8-Flash-Next is not published in what we have",
    "M600-M603": "S16: 63 GB of weights beside 64 GB of memory: the machine pages",
    "M689": "S19: all in VRAM is another path of that runtime, without its cache",
    "M696-M705": "S19: another model, in NVFP4: its configuration is not published in what we have",
}
"""Ready rows of S01, S03, S04, S09, S12, S15, S16 and S19 that are not used, and why."""


def changed(machine: Tiers, limited: str, bandwidth: float, fixed: float) -> Tiers:
    """Return a machine with one other bandwidth, and a fixed time of a layer in place of all its fixed times."""
    tiers, ways = list(machine.tiers), list(machine.ways)
    for n, tier in enumerate(tiers):
        if tier.engine is not None:
            engine = replace(tier.engine, step_seconds=0.0, layer_seconds=0.0 if n else fixed, expert_seconds=0.0)
            is_limited = (n == 0 and limited == "near") or (n == 1 and limited == "far")
            tiers[n] = replace(tier, engine=replace(engine, bytes_per_second=bandwidth) if is_limited else engine)
    if limited == "link":
        ways[0] = replace(ways[0], bytes_per_second=bandwidth, latency_seconds=0.0)
        tiers[1] = replace(tiers[1], bytes_per_second=FASTEST, latency_seconds=0.0)
    return replace(machine, tiers=tuple(tiers), ways=tuple(ways))


class Predictor:
    """Predicts the rows of a series."""

    def __init__(self, series: Series) -> None:
        self.series, self.shapes = series, shapes_of(series.model)
        self.machine = load_target(series.target).tiers()
        self.routing: dict[tuple[int, int], Routing] = {}

    def of(self, batch: int, context: int) -> Routing:
        """Return the routing of a batch at a context."""
        if (batch, context) not in self.routing:
            asked = Asked(self.machine, self.shapes, parse_format(self.series.format), batch, context, 0)
            self.routing[batch, context] = Routing(asked, profile_of(asked, None, 1).trace)
        return self.routing[batch, context]

    def seconds(self, row: Row, machine: Tiers, hit_rate: float | None) -> float:
        """Predict seconds of a row's step on a machine."""
        batch, place = int(row["batch"]), parse_place(self.series.place(row))
        routing = self.of(batch, self.series.context(row))
        chosen, _ = routing.choices(place, 1)
        if hit_rate is not None:
            near = hit_rate * chosen.distinct
            chosen = Choices(near, chosen.distinct - near, 0.0, chosen.uses, chosen.missing_layers)
        loads = place.loads or not routing.computes_far()
        return step_time(machine, routing.size, routing.asked.format, batch, batch, chosen, loads).seconds

    def fit(self, rows: list[Row]) -> tuple[float, float]:
        """Find the bandwidth and the fixed time by which two rows come out as measured; of one row, the fixed time."""
        engine = self.machine.near.engine
        assert engine is not None
        if len(rows) < 2:
            assert self.series.limited == "near", "one row says nothing of a bandwidth"
            return engine.bytes_per_second, self._fixed(rows[0], engine.bytes_per_second)
        first, last = rows
        wanted = measured(last) - measured(first)

        def difference(bandwidth: float) -> float:
            machine = changed(self.machine, self.series.limited, bandwidth, 0.0)
            late, early = (self.seconds(row, machine, stated(row)) for row in (last, first))
            return late - early - wanted

        low, high = SLOWEST, FASTEST
        sign = np.sign(difference(low))
        for _ in range(200):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if np.sign(difference(middle)) == sign else (low, middle)
        return low, self._fixed(first, low)

    def _fixed(self, row: Row, bandwidth: float) -> float:
        """Return what a row takes beyond what it moves and computes, for each layer."""
        machine = changed(self.machine, self.series.limited, bandwidth, 0.0)
        return (measured(row) - self.seconds(row, machine, stated(row))) / self.shapes.model.layers


def measured(row: Row) -> float:
    """Return seconds of a step: a batch's tokens over the aggregate rate."""
    return int(row["batch"]) / float(row["value"])


def stated(row: Row) -> float | None:
    return float(row["hit_rate"]) if row["hit_rate"] else None


def predicted(series: Series, rows: dict[str, Row]) -> dict[str, Any]:
    """Fit a series and predict its other rows."""
    predictor = Predictor(series)
    machine, bandwidth, fixed = predictor.machine, None, None
    if series.fitted:
        own = next(other for other in SERIES if set(series.fitted) <= set(other.rows))
        bandwidth, fixed = Predictor(own).fit([rows[number] for number in series.fitted])
        machine = changed(machine, series.limited, bandwidth, fixed)
    found: list[dict[str, Any]] = []
    for number in series.rows:
        row = rows[number]
        given, without = (predictor.seconds(row, machine, hit) for hit in (stated(row), None))
        found.append(
            {
                "id": number,
                "fitted": number in series.fitted,
                "measured_tokens_per_second": int(row["batch"]) / measured(row),
                "predicted_tokens_per_second": int(row["batch"]) / given,
                "error": measured(row) / given - 1,
                "error_without_stated_hit_rate": measured(row) / without - 1,
            }
        )
    errors = [abs(row["error"]) for row in found if not row["fitted"]]
    return {
        "series": series.name,
        "bandwidth_gb_s": None if bandwidth is None else bandwidth / 1e9,
        "fixed_us_per_layer": None if fixed is None else fixed * 1e6,
        "target_rests_on_it": series.target in RESTS_ON_SINGLE and not series.fitted,
        "median_error": float(np.median(errors)),
        "median_error_without_stated_hit_rate": float(
            np.median([abs(r["error_without_stated_hit_rate"]) for r in found if not r["fitted"]])
        ),
        "rows": found,
    }


def show(tables: Iterator[dict[str, Any]]) -> None:
    print("| series | fitted GB/s | fixed us a layer | row | measured tok/s | predicted | error | without hit rate |")
    print("|---|---|---|---|---|---|---|---|")
    errors, medians = [], []
    for table in tables:
        for row in table["rows"]:
            what = f"{row['id']}{' (fitted)' if row['fitted'] else ''}"
            print(
                f"| {table['series']} | {table['bandwidth_gb_s']:.1f} | {table['fixed_us_per_layer']:.0f} | {what} | "
                f"{_measured_and_predicted(row)} | {row['error_without_stated_hit_rate']:+.1%} |",
                flush=True,
            )
        errors += [abs(row["error"]) for row in table["rows"] if not row["fitted"]]
        medians.append((table["median_error"], table["series"]))
        print(f"| {table['series']} | | | **median of rows not fitted** | | | **{table['median_error']:.1%}** | |")
    print(
        f"\nMedian error of {len(errors)} rows not fitted: {np.median(errors):.1%}; worst series {max(medians)[0]:.1%}"
    )


def show_single(tables: Iterator[dict[str, Any]]) -> None:
    print("\n| single rows, by targets as they ship | row | measured tok/s | predicted | error |")
    print("|---|---|---|---|---|")
    for table in tables:
        for row in table["rows"]:
            what = f"{row['id']}{' (the target rests on it)' if table['target_rests_on_it'] else ''}"
            print(f"| {table['series']} | {what} | {_measured_and_predicted(row)} |", flush=True)
    print("\nNot used:")
    for rows, reason in UNUSED.items():
        print(f"- {rows}: {reason}")


def _measured_and_predicted(row: dict[str, Any]) -> str:
    measured_rate, predicted_rate = row["measured_tokens_per_second"], row["predicted_tokens_per_second"]
    return f"{measured_rate:.2f} | {predicted_rate:.2f} | {row['error']:+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    if not DATA.is_file():
        print(f"{DATA} is not there (MOE_DATA): nothing to compare with")
        return
    with DATA.open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)} | FURTHER
    tables, single = ((predicted(series, rows) for series in of) for of in (SERIES, SINGLE))
    if options.json:
        print(json.dumps({"series": list(tables), "single": list(single), "unused": UNUSED}, indent=1))
    else:
        show(tables)
        show_single(single)


if __name__ == "__main__":
    main()
