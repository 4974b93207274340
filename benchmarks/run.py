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
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

MOEC = Path(sys.executable).parent / "moec"
TINY = Path(__file__).parents[1] / "examples" / "tiny-moe"
KINDS = {"lru": "(a) LRU on demand", "serial": "(b) no overlap", "ours": "(c) our schedule"}
CONTEXT, PROMPT_CHARACTERS, GENERATED_TOKENS = 256, 60, 128
LEAST_CHARACTERS = 5_000
"""Of a module that prompts are taken from."""
OLMOE_GB, OLMOE_TOKENS, PROFILED_TOKENS, OFFLOADED_TOKENS = 2.0, 24, 512, 4
EMBEDDING_STD = 1.0
"""What a token is must weigh more than what attention mixes in, or all route alike: so 40 % repeat (measured: 43)."""
ROUTER_SKEW = 0.5
"""Standard deviation of the logarithm of a router row's length: the larger, the more some experts are preferred."""
TINY_SETTINGS = ((0.0017, 0.003), (0.0025, 0.02))
"""GB near, and GB/s that reads are held to: where loading dominates, and where it does not."""
PROFILED_MODULES = ("bridges", "clique", "core", "cycles", "dag", "euler", "planarity", "similarity")
"""Whose beginnings examples/tiny-moe goes on with when it is profiled: of several kinds, as what people ask is."""
TINY_TOKENS = 12_288
"""Of what it then says that are profiled."""
PREDICTED_GB = 0.0025
LEAST_PROMPTS = 8
"""That a figure is of: what one text routes says little."""
ADDED = ("bytes_loaded", "decoded_bytes", "least_bytes", "load_seconds", "hidden_load_seconds")
"""Of several runs."""
Key = tuple[int, int]
"""Decoder layer, expert."""
EXIT_FAILED = 5


@dataclass(frozen=True)
class Setting:
    """What is run.

    Attributes:
        batch: sequences.
        near_gb: capacity of the near memory that is compiled for, beside the caches of `Model.cache_gb`.
        far_gb_s: that reads are held to; None: the disk as it is.
        draft_length: γ, or `auto`.
        tokens: new ones of each sequence.
        temperature: that they are drawn with; None: the likeliest.
    """

    batch: int
    near_gb: float
    far_gb_s: float | None
    draft_length: str = "auto"
    tokens: int = 64
    temperature: float | None = None


@dataclass(frozen=True)
class Model:
    """What is compiled and run.

    Attributes:
        source: a MODEL of `moec compile`.
        store: its weights, packed.
        profile: its routing and accepted lengths, measured; None: synthetic routing.
        host: hardware file of this machine.
        prompts: as many as the largest batch.
        cache_gb: that a sequence's KV cache takes beside what a setting states.
        device: that (a), (b) and (c) run on.
    """

    source: str
    store: str
    profile: str | None
    host: str
    prompts: tuple[str, ...]
    cache_gb: float = 0.0
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
    options: list[object] = ["--set", f"memories.dram.capacity_gb={setting.near_gb + setting.batch * model.cache_gb:g}"]
    if setting.far_gb_s:
        for place in ("links.read", "memories.disk"):
            options += ["--set", f"{place}.bandwidth_gb_s={setting.far_gb_s:g}"]
    options += ["--format", "int8-sliced,kv=32", "--context", CONTEXT]
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
        stores, runner.round_, runner.draft_length = _lru_store(slots, accesses), _lru_round, 0
    elif kind == "serial":
        stores, runner.round_ = _serial_store(), _serial_round(out, runner.draft_length)
    else:
        stores = store.ExpertStore
    marks: list[tuple[int, int]] = []
    asked = Asked(setting.tokens, setting.temperature, far_bandwidth_gb_s=setting.far_gb_s)
    groups, runs = max(1, LEAST_PROMPTS // setting.batch), []
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


def _marking(stores: Callable[[Any, Any], Any], marks: list[tuple[int, int]], accesses: list[Key]) -> Any:
    """Note what was loaded and asked for when the prompts are done, which is when a store is to forget them."""

    def made(plan: Any, far: Any) -> Any:
        store = stores(plan, far)
        forget = store.forget

        def forgotten() -> None:
            marks.append((store.staging.traffic.bytes, len(accesses)))
            forget()

        store.forget = forgotten
        return store

    return made


def least_loads(asked: Sequence[Key], slots: int, first: int = 0) -> int:
    """Return how many experts a cache of so many loads that knows the future, from the `first` that is asked for on.

    What is asked for again last gives way: no cache loads fewer in all of what is asked for in this order (Belady, "A
    study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5, 1966).
    """
    again: list[int] = []
    later: dict[Key, int] = {}
    for place, key in reversed(list(enumerate(asked))):
        again.append(later.get(key, len(asked)))
        later[key] = place
    cached: dict[Key, int] = {}
    loads = 0
    for number, (key, place) in enumerate(zip(asked, reversed(again), strict=True)):
        if key not in cached:
            loads += number >= first
            if len(cached) == slots:
                del cached[max(cached, key=cached.__getitem__)]
        cached[key] = place
    return loads


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


def _lru_round(decoder: Any) -> list[list[int]]:
    return decoder.verify([])  # type: ignore[no-any-return]


def _serial_round(out: str, length: int) -> Callable[[Any], list[list[int]]]:
    """Return the compiled round without anything that is loaded ahead."""
    from moe_compiler.runtime.hot_set import HotSetRule

    rule = HotSetRule(**json.loads((Path(out) / "plan.json").read_text())["hot_set"])

    def round_(decoder: Any) -> list[list[int]]:
        decoder.begin_round()
        drafts: list[Any] = []
        for step in range(length):
            drafts.append(decoder.draft(step, drafts))
        accepted: list[list[int]] = decoder.verify(drafts)
        decoder.update_hot_set(rule)
        decoder.release_staging()
        return accepted

    return round_


def _serial_store() -> type:
    from moe_compiler.runtime.staging import WAITED_FOR
    from moe_compiler.runtime.store import ExpertStore

    class SerialStore(ExpertStore):
        """Reads an expert when it is computed, and not before."""

        def _load(self, wanted: Iterable[tuple[Any, int]]) -> None:
            """Load nothing ahead."""

        def arriving(self, layer: int, experts: Sequence[int], engine: str) -> Iterator[int]:
            """Compute in program order."""
            yield from experts

        @contextmanager
        def verified(self, layer: int, expert: int) -> Iterator[Any]:
            """Read what is missing of an expert, and hold it."""
            if not self.is_whole((layer, expert)):
                ExpertStore._load(self, [((layer, expert), WAITED_FOR)])
            with super().verified(layer, expert) as matrices:
                yield matrices

    return SerialStore


def _lru_store(slots: int, accesses: list[Key]) -> Callable[[Any, Any], Any]:
    from moe_compiler.runtime.far import read
    from moe_compiler.runtime.packing import REST, SLICE, padded
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.store import ExpertStore

    class LruStore(ExpertStore):
        """Whole experts, read on demand into a cache that forgets what was used longest ago."""

        def __init__(self, plan: Any, far: Any) -> None:
            super().__init__(Plan(), far)
            sizes = [(layout.slice_bytes, layout.rest_bytes) for layout in far.layouts.values()]
            self.free = [
                tuple(far.rooms(padded(max(size[piece] for size in sizes))) for piece in (0, 1)) for _ in range(slots)
            ]
            self.near.bytes = sum(len(part) for pair in self.free for part in pair)
            self.cached: OrderedDict[tuple[int, int], Any] = OrderedDict()

        def decided(self, layer: int, experts: Iterable[int]) -> None:
            """Load nothing ahead."""

        def arriving(self, layer: int, experts: Sequence[int], engine: str) -> Iterator[int]:
            """Compute what is here first: what is loaded for this token may need its place."""
            yield from sorted(experts, key=lambda expert: (layer, expert) not in self.cached)

        @contextmanager
        def verified(self, layer: int, expert: int) -> Iterator[Any]:
            """Hold an expert, read if it is not here."""
            key = (layer, expert)
            accesses.append(key)
            if key not in self.cached:
                buffers = self.free.pop() if self.free else self.cached.popitem(last=False)[1]
                begun = self.record.now()
                read(self.far, layer, expert, dict(zip((SLICE, REST), buffers, strict=True)))
                self._waited(key, (SLICE, REST), begun)
                self.cached[key] = buffers
            self.cached.move_to_end(key)
            yield self.far.layouts[layer].views(*self.cached[key])

    return LruStore


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
        "hidden_share": None if hidden is None else round(hidden, 2),
        "peak_mb": round(run["peak_bytes"] / 1e6, 1),
        "near_and_staging_mb": round((run["near_bytes"] + run["staging_bytes"]) / 1e6, 1),
        "is_emulated": run["is_emulated"],
    }


def tiny_model(folder: Path, host: str | None) -> Model:
    """Pack, profile and calibrate for examples/tiny-moe.

    Prompts are of sources that it was not trained on. What is profiled is what it generates after prompts of other
    files than those that are measured with: that is what a decoder routes.
    """
    store, profile = folder / "tiny.store", folder / "tiny.npz"
    moec("pack", TINY, "--weights", TINY, "-o", store)
    others = [prompt for name in PROFILED_MODULES for prompt in prompts_of(name)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        (folder / "corpus.txt").write_text(pool.submit(_generated, str(store), others).result())
    options = ("--tokens", TINY_TOKENS, "--draft-length", 8, "--rounds", 64)
    moec("profile", TINY, "--weights", store, "--text", folder / "corpus.txt", *options, "-o", profile)
    config = json.loads((TINY / "config.json").read_text())
    values = config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * config["head_dim"] * CONTEXT
    return Model(str(TINY), str(store), str(profile), host or calibrated(folder), other_prompts(), 4 * values / 1e9)


@cache
def modules() -> dict[str, str]:
    """Return the text of every module of networkx' algorithms, by name."""
    import networkx

    files = sorted((Path(networkx.__file__).parent / "algorithms").glob("*.py"))
    return {file.stem: file.read_text() for file in files}


def prompts_of(name: str) -> tuple[str, ...]:
    """Return beginnings of 16 pieces of a module of networkx."""
    text = modules()[name]
    step = (len(text) - PROMPT_CHARACTERS) // 16
    return tuple(text[n * step : n * step + PROMPT_CHARACTERS] for n in range(16))


def other_prompts() -> tuple[str, ...]:
    """Return what stands in the middle of 16 modules that are not profiled: each sequence asks for something else."""
    others = [
        text for name, text in modules().items() if name not in PROFILED_MODULES and len(text) >= LEAST_CHARACTERS
    ]
    chosen = [others[n * len(others) // 16] for n in range(16)]
    return tuple(text[len(text) // 2 :][:PROMPT_CHARACTERS] for text in chosen)


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
        decoder = Decoder(model, Plan(resident=near, whole=near), [words.encode(prompt)], CONTEXT)
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
        row = beside(model, Setting(batch, OLMOE_GB, None, "0", OLMOE_TOKENS, temperature=1.0), folder)
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
    return Model(str(checkpoint), str(store), str(profile), host or calibrated(folder), prompts_of("matching"))


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
    """Record the routing of tokens that the model draws, in blocks, everything near."""
    import numpy as np
    import torch

    from moe_compiler.runtime.decoder import Decoder
    from moe_compiler.runtime.model import from_store
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.store_file import StoreFile

    model = from_store(StoreFile(Path(store)))
    near = {part.layer: list(range(part.experts)) for part in model.experts}
    ids = torch.randint(0, 1000, (PROFILED_TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    found: dict[int, list[Any]] = {}
    decoder = Decoder(model, Plan(resident=near, whole=near), [[1]], len(ids) + 1)
    decoder.kernels.routed = lambda layer, is_draft, chosen: found.setdefault(layer, []).append(chosen.numpy().copy())
    decoder.read(0, ids)
    decoder.close()
    experts = np.stack([np.concatenate(found[layer]) for layer in sorted(found)], axis=1)
    np.savez_compressed(profile, experts=experts.astype(np.uint8), kind=np.array("real"))


def offloaded(checkpoint: Path, batch: int, most_mb: float) -> dict[str, Any]:
    """Time transformers with accelerate's disk offload, in a control group of as much memory as ours took at most."""
    command = [sys.executable, __file__, "offload", "--folder", str(checkpoint), "--batch", str(batch)]
    done = subprocess.run([*command, "--memory-mb", str(most_mb)], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if not done.returncode else {"failed": done.stderr.strip()[-300:]}


def offload(checkpoint: Path, batch: int, memory_mb: float) -> None:
    """Generate with transformers and accelerate, every layer on disk; prints tokens a second, and each step."""
    import os
    import time

    import torch
    from transformers import AutoModelForCausalLM

    group = Path("/sys/fs/cgroup/memory/moec-benchmark")
    folder = tempfile.mkdtemp(dir=checkpoint.parent)
    layers = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    where = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    where |= {f"model.layers.{layer}": "disk" for layer in range(layers)}
    options = {"dtype": torch.bfloat16, "device_map": where, "offload_folder": folder}
    lines = Path("/proc/self/status").read_text().splitlines()
    baseline = int(next(line.split()[1] for line in lines if "VmRSS" in line))
    model = AutoModelForCausalLM.from_pretrained(checkpoint, **options)
    ids = torch.randint(0, 1000, (batch, 16), generator=torch.Generator().manual_seed(0))
    group.mkdir(exist_ok=True)
    limit = int(memory_mb * 1e6) + baseline * 1024
    (group / "memory.limit_in_bytes").write_text(str(limit))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    # What others have cached of the files would be read for nothing.
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    times: list[float] = []

    def step_ends(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        times.append(time.perf_counter())
        return scores

    tokens = 1 + OFFLOADED_TOKENS
    with torch.inference_mode():
        model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, logits_processor=[step_ends])
    # The first step reads the prompt.
    steps = [end - start for start, end in itertools.pairwise(times)]
    found = {"tokens_per_second": batch / statistics.mean(steps), "step_seconds": steps}
    print(json.dumps(found | {"limit_mb": limit / 1e6, "baseline_mb": baseline / 1e3}))


def _said(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row as it is there, to stderr."""
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tiny", "predicted", "olmoe", "offload"))
    parser.add_argument("--folder", type=Path, help="where files go (default: a temporary folder)")
    parser.add_argument("--batch", type=int, default=1, help="of offload")
    parser.add_argument("--memory-mb", type=float, default=0.0, help="of offload, beside what it starts with")
    parser.add_argument("--host", help="hardware file of this machine (default: it is measured)")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="that (a), (b) and (c) run on, by plans for this machine; cuda: no (d)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    if options.what == "offload":
        offload(options.folder, options.batch, options.memory_mb)
        return
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
