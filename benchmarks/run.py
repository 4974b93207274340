"""The emitted schedule beside what people use instead, in one run, side by side. Rows to stderr as they come; --json.

    python benchmarks/run.py tiny                    # examples/tiny-moe, reads of the store held to a rate (emulated)
    python benchmarks/run.py predicted               # seconds a round: predicted, and measured
    python benchmarks/run.py olmoe --folder /big     # a model of OLMoE-1B-7B's shape on the real disk, 60 GB of it

(a) plain decoding, experts loaded on demand into a least-recently-used cache of the same bytes; (b) the compiled plan
without overlap: an expert is read when it is computed; (c) the compiled schedule; (d) transformers with accelerate's
disk offload in the same memory (olmoe). Greedy tokens of (a), (b) and (c) must be the same, or the benchmark fails.
What is compiled for is this machine as `moec calibrate` measures it first. Every figure is of a process of its own.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from peers import Key, least_loads, lru_round, lru_store, serial_round, serial_store

MOEC = Path(sys.executable).parent / "moec"
PEERS = Path(__file__).with_name("peers.py")
TINY = Path(__file__).parents[1] / "examples" / "tiny-moe"
PROMPTS, PROMPT_CHARACTERS, GENERATED_TOKENS = 16, 60, 96
"""Every figure is of the same prompts: what one text routes says little."""
LEAST_CHARACTERS, PIECES = 5_000, 5
"""Of a module that prompts are taken from; and in how many places, where it is profiled."""
OLMOE_GB, OLMOE_TOKENS, OLMOE_CONTEXT, PROFILED_SEQUENCES = 2.0, 24, 96, 12
EMBEDDING_STD = 1.0
"""What a token is must weigh more than what attention mixes in, or all route alike: so 40 % repeat (measured: 43)."""
ROUTER_SKEW = 0.5
"""Standard deviation of the logarithm of a router row's length: the larger, the more some experts are preferred."""
TINY_SETTINGS = ((0.0017, 0.003), (0.0025, 0.02))
"""GB near, and GB/s that reads are held to: where loading dominates, and where it does not."""
TINY_TOKENS, SEQUENCE_TOKENS = 12_288, 128
"""Of what examples/tiny-moe says that are profiled, so many as one sequence: about what a run's sequences have."""
PREDICTED_GB = 0.0025
ADDED = ("bytes_loaded", "decoded_bytes", "least_bytes", "load_seconds", "hidden_load_seconds")
"""Of several runs."""
EXIT_FAILED, FLOAT32_BYTES = 5, 4


@dataclass(frozen=True)
class Setting:
    """What is run.

    Attributes:
        batch: sequences.
        near_gb: capacity of the near memory that is compiled for, beside the caches of `Model.cache_values`.
        far_gb_s: that reads are held to; None: the disk as it is.
        draft_length: γ, or `auto`.
        tokens: new ones of each sequence.
        temperature: that they are drawn with; None: the likeliest.
        context: tokens of a sequence that are compiled for.
    """

    batch: int
    near_gb: float
    far_gb_s: float | None
    draft_length: str = "auto"
    tokens: int = 64
    temperature: float | None = None
    context: int = 256


@dataclass(frozen=True)
class Model:
    """What is compiled and run.

    Attributes:
        source: a MODEL of `moec compile`.
        store: its weights, packed.
        profile: its routing and accepted lengths, measured; None: synthetic routing.
        host: hardware file of this machine.
        prompts: as many as the largest batch, or some batches.
        cache_values: of a KV cache, a token, that memory is there for beside what a setting states.
        device: that (a), (b) and (c) run on.
    """

    source: str
    store: str
    profile: str | None
    host: str
    prompts: tuple[str, ...]
    cache_values: int = 0
    device: str = "cpu"


def moec(*arguments: Any) -> str:
    """Run a command of ours."""
    done = subprocess.run([str(MOEC), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"moec {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def compiled(model: Model, setting: Setting, folder: Path) -> Path:
    """Compile for a setting; returns the folder."""
    out = folder / f"b{setting.batch}-n{setting.near_gb:g}-f{setting.far_gb_s or 0:g}-g{setting.draft_length}"
    caches_gb = FLOAT32_BYTES * setting.batch * setting.context * model.cache_values / 1e9
    options: list[object] = ["--set", f"memories.dram.capacity_gb={setting.near_gb + caches_gb:g}"]
    if setting.far_gb_s:
        for place in ("links.read", "memories.disk"):
            options += ["--set", f"{place}.bandwidth_gb_s={setting.far_gb_s:g}"]
    options += ["--format", "int8-sliced,kv=32", "--context", setting.context]
    options += ["--batch", setting.batch, "--draft-length", setting.draft_length]
    options += ["--profile", model.profile] if model.profile else []
    moec("compile", model.source, "--target", model.host, *options, "-o", out)
    return out


def measured(kind: str, out: Path, model: Model, setting: Setting, slots: int = 0) -> dict[str, Any]:
    """Run once, in a process of its own; `slots` are the experts that a cache holds."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_run, kind, str(out), model, setting, slots).result()


def _run(kind: str, out: str, model: Model, setting: Setting, slots: int) -> dict[str, Any]:
    from unittest.mock import patch

    from moe_compiler.generation import Asked, Runner
    from moe_compiler.runtime import decoder, store

    runner = Runner.open(out, model.store, setting.far_gb_s, model.device)
    accesses: list[Key] = []
    if kind == "lru":
        stores, runner.round_, runner.draft_length = lru_store(slots, accesses), lru_round, 0
    elif kind == "serial":
        stores, runner.round_ = serial_store(), serial_round(runner.draft_length)
    else:
        stores = store.ExpertStore
    marks: list[tuple[int, int]] = []
    asked = Asked(setting.tokens, setting.temperature, far_bandwidth_gb_s=setting.far_gb_s)
    groups, runs = len(model.prompts) // setting.batch, []
    with patch.object(decoder, "ExpertStore", _marking(stores, marks, accesses)):
        for number in range(groups):
            found = runner.run(model.prompts[number * setting.batch : (number + 1) * setting.batch], asked)
            prompt_bytes, first = marks.pop()
            decoded = found["bytes_loaded"] - prompt_bytes
            least = least_loads(accesses, slots, first) * expert_bytes(model.store)
            accesses.clear()
            measured_json = json.loads((Path(out) / "measured.json").read_text())
            runs.append(found | {"measured": measured_json, "decoded_bytes": decoded, "least_bytes": least})
    return _combined(runs)


def _marking(stores: Any, marks: list[tuple[int, int]], accesses: list[Key]) -> Any:
    """Note what was loaded and asked for when the prompts are done, which is when a store is to forget them."""

    class Marking(stores):  # type: ignore[misc]
        def forget(self) -> None:
            marks.append((self.staging.traffic.bytes, len(accesses)))
            super().forget()

    return Marking


def _combined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return several runs as one."""
    seconds = [sum(len(s["token_ids"]) for s in run["sequences"]) / run["tokens_per_second"] for run in runs]
    added = {name: sum(run[name] for run in runs) for name in ADDED}
    tokens = sum(rate * time for rate, time in zip((run["tokens_per_second"] for run in runs), seconds, strict=True))
    rounds = [(run["measured"]["round"]["rounds"], run["measured"]["round"]["seconds"]) for run in runs]
    rates = [run["acceptance_rate"] for run in runs]
    return {
        **runs[0],
        **added,
        "tokens_per_second": tokens / sum(seconds),
        "sequences": [sequence for run in runs for sequence in run["sequences"]],
        "acceptance_rate": None if None in rates else statistics.mean(rates),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "round_seconds": sum(count * time for count, time in rounds) / sum(count for count, _ in rounds),
        "predicted": runs[0]["measured"]["predicted"]["round_seconds"],
    }


def beside(model: Model, setting: Setting, folder: Path) -> dict[str, Any]:
    """Measure (a), (b) and (c), one after the other."""
    out = compiled(model, setting, folder)
    ours = measured("ours", out, model, setting)
    slots = (ours["near_bytes"] + ours["staging_bytes"]) // expert_bytes(model.store, in_pages=True)
    runs = {
        "ours": ours,
        "lru": measured("lru", out, model, setting, slots),
        "serial": measured("serial", out, model, setting),
    }
    speed = {kind: run["tokens_per_second"] for kind, run in runs.items()}
    return {
        "setting": vars(setting),
        "draft_length": ours["draft_length"],
        "runs": {kind: _row(run) for kind, run in runs.items()},
        "over_lru": round(speed["ours"] / speed["lru"], 2),
        "over_serial": round(speed["ours"] / speed["serial"], 2),
        "predicted_round_ms": round(ours["predicted"] * 1e3, 2),
        "measured_round_ms": round(ours["round_seconds"] * 1e3, 2),
        "same_tokens": len({json.dumps([s["token_ids"] for s in run["sequences"]]) for run in runs.values()}) == 1,
    }


def expert_bytes(store: str, in_pages: bool = False) -> int:
    """Return the bytes of a whole expert, or of the pages that it lies in."""
    from moe_compiler.runtime.packing import padded
    from moe_compiler.runtime.store_file import StoreFile

    file = StoreFile(Path(store))
    sizes = [(layout.slice_bytes, layout.rest_bytes) for layout in file.layouts.values()]
    file.close()
    return max(sum(map(padded, pieces) if in_pages else pieces) for pieces in sizes)


def _row(run: dict[str, Any]) -> dict[str, Any]:
    hidden = run["hidden_load_seconds"] / run["load_seconds"] if run["load_seconds"] else None
    return {
        "tokens_per_second": round(run["tokens_per_second"], 2),
        "acceptance_rate": run["acceptance_rate"],
        "mb_loaded": round(run["bytes_loaded"] / 1e6, 1),
        "mb_while_decoding": round(run["decoded_bytes"] / 1e6, 1),
        "least_mb": round(run["least_bytes"] / 1e6, 1) or None,
        "gb_s_while_loading": round(run["bytes_loaded"] / run["load_seconds"] / 1e9, 3)
        if run["load_seconds"]
        else None,
        "hidden_share": None if hidden is None else round(hidden, 2),
        "peak_mb": round(run["peak_bytes"] / 1e6, 1),
        "near_and_staging_mb": round((run["near_bytes"] + run["staging_bytes"]) / 1e6, 1),
        "is_emulated": run["is_emulated"],
    }


def tiny_model(folder: Path, host: str | None) -> Model:
    """Pack, profile and calibrate for examples/tiny-moe.

    Prompts are of sources that it was not trained on. What is profiled is what it generates after prompts of the other
    files: that is what a decoder routes.
    """
    store, profile = folder / "tiny.store", folder / "tiny.npz"
    moec("pack", TINY, "--weights", TINY, "-o", store)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        (folder / "corpus.txt").write_text(pool.submit(_generated, str(store), profiled_prompts()).result())
    options = ("--tokens", TINY_TOKENS, "--context", SEQUENCE_TOKENS, "--draft-length", 8, "--rounds", 64)
    moec("profile", TINY, "--weights", store, "--text", folder / "corpus.txt", *options, "-o", profile)
    config = json.loads((TINY / "config.json").read_text())
    values = config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * config["head_dim"]
    return Model(str(TINY), str(store), str(profile), host or calibrated(folder), asked_prompts(), values)


@cache
def modules() -> tuple[list[str], list[str]]:
    """Return texts of modules of networkx' algorithms: those to ask of, and those to profile with."""
    import networkx

    files = sorted((Path(networkx.__file__).parent / "algorithms").glob("*.py"))
    texts = [text for text in (file.read_text() for file in files) if len(text) >= LEAST_CHARACTERS]
    asked = [texts[n * len(texts) // PROMPTS] for n in range(PROMPTS)]
    return asked, [text for text in texts if text not in asked]


def asked_prompts() -> tuple[str, ...]:
    """Return what stands in the middle of each module to ask of."""
    asked, _ = modules()
    return tuple(text[len(text) // 2 :][:PROMPT_CHARACTERS] for text in asked)


def profiled_prompts() -> list[str]:
    """Return what stands in places of all other modules, in turns: what is seen first is like what comes last."""
    _, others = modules()
    starts = ((text, n * (len(text) - PROMPT_CHARACTERS) // PIECES) for n in range(PIECES) for text in others)
    return [text[start:][:PROMPT_CHARACTERS] for text, start in starts]


def _generated(store: str, prompts: list[str]) -> str:
    """Return prompts and what the model says after each, everything near."""
    from moe_compiler.runtime.decoder import Decoder, decode, plain_round
    from moe_compiler.runtime.model import from_store
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.store_file import StoreFile
    from moe_compiler.runtime.words import Words

    file = StoreFile(Path(store))
    model, words = from_store(file), Words(file, int(file.entries.config["vocab_size"]))
    near = {part.layer: list(range(part.experts)) for part in model.experts}
    texts = []
    for prompt in prompts:
        decoder = Decoder(
            model, Plan(resident=near, whole=near), [words.encode(prompt)], PROMPT_CHARACTERS + GENERATED_TOKENS
        )
        texts.append(prompt + words.decode(decode(decoder, plain_round, GENERATED_TOKENS)[0]))
        decoder.close()
    return "\n".join(texts)


def calibrated(folder: Path) -> str:
    """Measure this machine; returns its hardware file."""
    moec("calibrate", "-o", folder / "host.yaml", "--disk", folder)
    return str(folder / "host.yaml")


def tiny(model: Model, folder: Path) -> dict[str, Any]:
    """Compare on examples/tiny-moe, its store held to rates at which loading dominates, and at which it does not."""
    settings = [Setting(batch, near, rate) for near, rate in TINY_SETTINGS for batch in (1, 4, 16)]
    return {"rows": [_said(beside(model, setting, folder)) for setting in settings]}


def predicted(model: Model, folder: Path) -> dict[str, Any]:
    """Compare predicted with measured seconds a round: batch × γ, on the disk as it is and held back."""
    rows = []
    for far, batch, length in itertools.product((None, 0.05), (1, 4, 16), ("0", "3")):
        setting = Setting(batch, PREDICTED_GB, far, length, tokens=96)
        found = measured("ours", compiled(model, setting, folder), model, setting)
        said, seconds = found["predicted"], found["round_seconds"]
        row = {"setting": vars(setting), "predicted_ms": said * 1e3, "measured_ms": seconds * 1e3}
        rows.append(_said(row | {"error": said / seconds - 1}))
    return {"rows": rows, "median_error": statistics.median(abs(row["error"]) for row in rows)}


def olmoe(model: Model, folder: Path) -> dict[str, Any]:
    """Compare on a model of OLMoE-1B-7B's shape and the disk as it is: what does not fit 2 GB is read."""
    rows = []
    for batch in (1, 4, 16):
        setting = Setting(batch, OLMOE_GB, None, "0", OLMOE_TOKENS, temperature=1.0, context=OLMOE_CONTEXT)
        row = beside(model, setting, folder)
        if model.device == "cpu":
            row["offload"] = offloaded(folder / "checkpoint", batch, row["runs"]["ours"]["peak_mb"])
        rows.append(_said(row))
    return {"rows": rows}


def olmoe_model(folder: Path, host: str | None) -> Model:
    """Write, pack and profile a model of that shape with random weights, whose routers prefer some experts."""
    checkpoint, store, profile = folder / "checkpoint", folder / "olmoe.store", folder / "olmoe.npz"
    write_olmoe(checkpoint)
    moec("pack", checkpoint, "--weights", checkpoint, "-o", store)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        pool.submit(_record_routing, str(store), str(profile)).result()
    return Model(str(checkpoint), str(store), str(profile), host or calibrated(folder), asked_prompts())


def write_olmoe(checkpoint: Path) -> None:
    """Write a checkpoint in BF16, a layer to a file; the tokenizer is that of examples/tiny-moe."""
    import shutil

    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from moe_compiler.frontend.models import raw_config

    checkpoint.mkdir()
    _, config = raw_config("olmoe-1b-7b")
    (checkpoint / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, checkpoint / name)
    torch.manual_seed(0)
    hidden, width = config["hidden_size"], config["intermediate_size"]

    def made(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.bfloat16).normal_(std=0.02)

    def ones() -> torch.Tensor:
        return torch.ones(hidden, dtype=torch.bfloat16)

    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors = {f"{at}.self_attn.{name}_proj.weight": made(hidden, hidden) for name in "qkvo"}
        norms = ("self_attn.q_norm", "self_attn.k_norm", "input_layernorm", "post_attention_layernorm")
        tensors |= {f"{at}.{name}.weight": ones() for name in norms}
        preference = torch.exp(ROUTER_SKEW * torch.randn(config["num_experts"], 1)).to(torch.bfloat16)
        tensors[f"{at}.mlp.gate.weight"] = made(config["num_experts"], hidden) * preference
        for expert in range(config["num_experts"]):
            part = f"{at}.mlp.experts.{expert}"
            tensors |= {f"{part}.{name}_proj.weight": made(width, hidden) for name in ("gate", "up")}
            tensors[f"{part}.down_proj.weight"] = made(hidden, width)
        save_file(tensors, checkpoint / f"model-{layer:05d}.safetensors")
    ends = {f"{name}.weight": made(config["vocab_size"], hidden) for name in ("model.embed_tokens", "lm_head")}
    ends["model.embed_tokens.weight"] *= EMBEDDING_STD / 0.02
    save_file(ends | {"model.norm.weight": ones()}, checkpoint / "model-ends.safetensors")
    places: dict[str, str] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            places |= dict.fromkeys(opened.keys(), file.name)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _record_routing(store: str, profile: str) -> None:
    """Record the routing of tokens such as the model draws, in sequences as long as a run's, everything near."""
    import numpy as np
    import torch

    from moe_compiler.runtime.decoder import Decoder
    from moe_compiler.runtime.model import from_store
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.store_file import StoreFile

    file = StoreFile(Path(store))
    model = from_store(file)
    near = {part.layer: list(range(part.experts)) for part in model.experts}
    shape, generator = (PROFILED_SEQUENCES, OLMOE_CONTEXT), torch.Generator().manual_seed(1)
    sequences = torch.randint(0, int(file.entries.config["vocab_size"]), shape, generator=generator).tolist()
    found: dict[int, list[Any]] = {}
    decoder = Decoder(model, Plan(resident=near, whole=near), [[1]], OLMOE_CONTEXT)
    decoder.kernels.routed = lambda layer, is_draft, chosen: found.setdefault(layer, []).append(chosen.numpy().copy())
    for ids in sequences:
        decoder.read(0, ids)
    decoder.close()
    experts = np.stack([np.concatenate(found[layer]) for layer in sorted(found)], axis=1)
    np.savez_compressed(profile, experts=experts.astype(np.uint8), kind=np.array("real"))


def offloaded(checkpoint: Path, batch: int, most_mb: float) -> dict[str, Any]:
    """Time transformers with accelerate's disk offload, in a control group of as much memory as ours took at most."""
    options = {"--checkpoint": checkpoint, "--batch": batch, "--memory-mb": most_mb}
    command = [sys.executable, PEERS, *itertools.chain.from_iterable(options.items())]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if not done.returncode else {"failed": done.stderr.strip()[-300:]}


def _said(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row as it is there, to stderr."""
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tiny", "predicted", "olmoe"))
    parser.add_argument("--folder", type=Path, help="where files go (default: a temporary folder)")
    parser.add_argument("--host", help="hardware file of this machine (default: it is measured)")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="that (a), (b) and (c) run on, by plans for this machine; cuda: no (d)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    measure = {"tiny": tiny, "predicted": predicted, "olmoe": olmoe}[options.what]
    make = olmoe_model if options.what == "olmoe" else tiny_model
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        found = measure(replace(make(folder, options.host), device=options.device), folder)
    if options.json:
        print(json.dumps(found, indent=1))
    sys.exit(0 if all(row.get("same_tokens", True) for row in found["rows"]) else EXIT_FAILED)


if __name__ == "__main__":
    main()
