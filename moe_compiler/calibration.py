"""`moec calibrate`: measure this machine into a hardware file, as `moec run` uses it.

Near is ordinary memory, far a disk that direct reads reach. What is measured is what the runtime does: its kernel's
products by the number of rows, direct reads of an expert, loads while a model decodes, and whole decoding steps of
small models, from which the fixed times of a step, a layer, an expert and a token follow by least squares.
"""

import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from moe_passes.plan.errors import InputError

from moe_compiler.backend.folder import check_file, write_file

if TYPE_CHECKING:
    from moe_compiler.runtime.decoder import Decoder

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
"""Rows that products are measured with."""
MATRIX = (2048, 2048)
COLD_BYTES = 2**28
"""Of the matrices that are multiplied with in turn."""
LEAST_SECONDS, REPEATS = 0.2, 3
COPIED_BYTES = 2**26
DISK_BYTES, READ_BYTES = 2**28, (2**22, 4096)
"""Of the file that is read, and of one read: an expert, and a page."""
STEPS = 16
HIDDEN, WIDTH, COUNT, VOCABULARY, CAPACITY = 256, 128, 16, 1024, 512
"""Of the models whose steps are timed: width, width of an expert, experts, tokens it knows, and positions."""
WHOLE = 8
"""Bits of a whole weight."""
KINDS = ((1, 8, True), (1, 8, False), (4, 8, True), (4, 8, False), (16, 8, True), (16, 8, False), (1, 4, True))
"""Tokens of the steps that are timed, bits of the weights, and whether experts are near or loaded."""
SHAPES = ((2, 1), (6, 1), (2, 4), (6, 4), (2, 8), (6, 8), (4, 2))
"""Layers of those models, and experts a token."""
LOADED = (4, 2)
"""The same of the model whose loads are timed."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """What was measured; SI units.

    Attributes:
        copy_bytes_per_second: of memory.
        macs_per_second: of the kernel on INT8 weights and on slices, by rows.
        attention_macs_per_second: of products with a cache.
        disk_bytes_per_second: of direct reads of an expert's size.
        disk_latency_seconds: of a load while a model decodes, beyond that of its bytes.
        step_seconds: fixed, of a step.
        layer_seconds: fixed, of a layer.
        expert_seconds: fixed, of an expert.
        token_seconds: fixed, of a step for every token that it takes.
        misfit: largest error of the fit of whole steps, as a share of the step.
    """

    copy_bytes_per_second: float
    macs_per_second: dict[tuple[int, int], float]
    attention_macs_per_second: float
    disk_bytes_per_second: float
    disk_latency_seconds: float
    step_seconds: float
    layer_seconds: float
    expert_seconds: float
    token_seconds: float
    misfit: float


def calibrate(
    output: str | Path, disk: str | Path | None = None, progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Write the hardware file of this machine; returns its content.

    Args:
        output: the file that is made; its name becomes the machine's.
        disk: a folder on the disk that stores will be read from; None: that of the output.
        progress: hears what is measured.

    Raises:
        InputError: a place that cannot be written.
    """
    path = Path(output)
    check_file(path)
    folder = Path(disk) if disk is not None else path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--disk {folder}: valid: a folder on the disk that stores are read from")
    found = _measured(folder, progress)
    content = _document(path.stem, found)
    write_file(path, f"# {content['description']}\n" + yaml.safe_dump(content, sort_keys=False, width=120))
    return content


def _measured(folder: Path, progress: Progress) -> Measured:
    progress("memory and products")
    copied, macs = _copy(), {(bits, width): _products(bits, width) for bits in (4, 8) for width in WIDTHS}
    attention = _attention()
    try:
        progress("direct reads")
        bandwidth = _reads(folder)
        progress("loads")
        latency = _load_latency(folder, bandwidth)
    except OSError as error:
        raise InputError(f"--disk {folder}: cannot be measured: {error.strerror}") from None
    progress("whole steps")
    fixed, misfit = _fixed(macs)
    return Measured(copied, macs, attention, bandwidth, latency, *fixed, misfit)


def _seconds(run: Callable[[], Any]) -> float:
    """Return the shortest mean of a few measurements: what else the machine does only adds."""
    run()
    means = []
    for _ in range(REPEATS):
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < LEAST_SECONDS:
            run()
            count += 1
        means.append((time.perf_counter() - start) / count)
    return min(means)


def _copy() -> float:
    import torch

    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return COPIED_BYTES / _seconds(lambda: target.copy_(source))


def _products(bits: int, width: int) -> float:
    import torch

    from moe_compiler.runtime.linear import multiply
    from moe_compiler.runtime.quantise import Packed, quantise

    out, inputs = MATRIX
    one, rows = quantise(torch.randn(out, inputs)), torch.randn(width, inputs)
    # One after the other, as experts are: no cache holds them all.
    assert one.low is not None
    count = -(-COLD_BYTES // (out * inputs))
    following = itertools.cycle([Packed(inputs, one.top.clone(), one.scale, one.low.clone()) for _ in range(count)])
    return width * out * inputs / _seconds(lambda: multiply(rows, next(following), bits < 8))


def _attention() -> float:
    import torch

    from moe_compiler.runtime.linear import attend

    heads, places, dim = 16, 1024, 64
    cache, asked = torch.randn(1, heads, places, dim), torch.randn(1, heads, dim)
    row = torch.zeros(1, dtype=torch.int64), torch.tensor([places - 1])
    return 2 * heads * places * dim / _seconds(lambda: attend(asked, (cache, cache), row, 0, 1.0, None))


def _reads(folder: Path) -> float:
    """Return bytes per second of large reads, past the page cache where that can be."""
    from moe_compiler.runtime.packing import pages
    from moe_compiler.runtime.store_file import open_direct

    with tempfile.NamedTemporaryFile(dir=folder, prefix=".moec-calibrate.") as file:
        block = np.random.default_rng(0).integers(0, 256, 2**22, dtype=np.uint8).tobytes()
        for _ in range(DISK_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        handle, _ = open_direct(Path(file.name))
        try:
            whole, latency = (_read(handle, size, pages(size).numpy().data) for size in READ_BYTES)
        finally:
            os.close(handle)
    return READ_BYTES[0] / max(whole - latency, 1e-9)


def _load_latency(folder: Path, bytes_per_second: float) -> float:
    """Return seconds of a load beyond those of its bytes, as the runtime loads while a model decodes.

    A thread that loads beside one that computes, after it has slept, takes several times as long as reads in a row.
    """
    from moe_compiler.runtime.decoder import Decoder
    from moe_compiler.runtime.model import build
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.store_file import StoreFile, StoreWriter

    config = _small_model(*LOADED)
    model, plan = build(config, None, 0), Plan(staging_slots=COUNT)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".moec-calibrate.") as place:
        path = Path(place) / "experts.store"
        with StoreWriter(path, config) as writer:
            for part in model.experts:
                for expert in range(part.experts):
                    writer.add_expert(part.layer, model.far.matrices(part.layer, expert))
        with (
            closing(StoreFile(path)) as far,
            closing(Decoder(replace(model, far=far), plan, [[1]], CAPACITY)) as decoder,
        ):
            traffic = decoder.store.staging.traffic
            # What is read for the first time is compared with its checksum.
            _one(decoder, 1, False)
            loads, size, seconds = len(traffic.loads), traffic.bytes, traffic.seconds
            for _ in range(STEPS):
                _one(decoder, 1, False)
    loads, size, seconds = len(traffic.loads) - loads, traffic.bytes - size, traffic.seconds - seconds
    return max(0.0, (seconds - size / bytes_per_second) / loads)


def _read(handle: int, size: int, into: Any) -> float:
    places = np.random.default_rng(size).permutation(DISK_BYTES // size)[:64].tolist()
    start = time.perf_counter()
    for place in places:
        os.preadv(handle, [into[:size]], place * size)
    return (time.perf_counter() - start) / len(places)


def _fixed(macs: dict[tuple[int, int], float]) -> tuple[tuple[float, float, float, float], float]:
    """Return the fixed seconds of a step, a layer, an expert and a token, and the largest error of that fit.

    Steps are timed on models of several depths and experts a token: plain ones, those that verify several tokens, with
    experts that are near and with experts that are loaded, and draft steps; what is left of them beyond the products
    follows from those four.
    """
    timed = [step for layers, experts in SHAPES for step in _steps(layers, experts, macs)]
    whole = np.array([step.seconds for step in timed])
    products = np.array([step.product_seconds for step in timed])
    rows = np.array([(1.0, step.layers, step.experts, step.tokens) for step in timed])
    # Errors count as shares of a step, and no time is negative: the best of the fits with some of the four at zero.
    best, least = np.zeros(4), math.inf
    for kept in itertools.product((False, True), repeat=4):
        found = np.zeros(4)
        columns = list(kept)
        if any(kept):
            wanted = np.maximum(whole - products, 0.0) / whole
            found[columns], *_ = np.linalg.lstsq(rows[:, columns] / whole[:, None], wanted, rcond=None)
        squares = float(np.square(_errors(rows @ found + products, whole)).sum())
        if (found >= 0).all() and squares < least:
            best, least = found, squares
    misfit = float(_errors(rows @ best + products, whole).max())
    return (float(best[0]), float(best[1]), float(best[2]), float(best[3])), misfit


def _errors(said: Any, measured: Any) -> Any:
    return np.abs(said / measured - 1)


@dataclass(frozen=True)
class Step:
    """Steps of one kind on a small model: medians.

    Attributes:
        seconds: that one took, but for waits for loads.
        product_seconds: that its products take by themselves.
        layers: of the model.
        experts: that were computed, in all layers.
        tokens: that it took.
    """

    seconds: float
    product_seconds: float
    layers: int
    experts: float
    tokens: int


def _steps(layers: int, experts: int, macs: dict[tuple[int, int], float]) -> list[Step]:
    """Time steps of all kinds of a small model; what is loaded comes from memory."""
    from moe_compiler.runtime.decoder import Decoder
    from moe_compiler.runtime.model import build
    from moe_compiler.runtime.plan import Plan

    config = _small_model(layers, experts)
    model = build(config, None, 0)
    near = {part.layer: list(range(COUNT)) for part in model.experts}
    found = []
    for tokens, bits, is_near in KINDS:
        kept = {"resident": near, "whole": near} if is_near else {"staging_slots": COUNT}
        decoder = Decoder(model, Plan(draft_bits=bits, dense_bits=bits, **kept), [[1]], CAPACITY)
        computed = _count_experts(decoder)
        seconds = _median_seconds(decoder, tokens, bits < WHOLE)
        decoder.close()
        count = sum(computed) / (STEPS + 1)
        dense = layers * (4 * HIDDEN**2 + COUNT * HIDDEN) + VOCABULARY * HIDDEN
        each = max(width for width in WIDTHS if width <= tokens * layers * experts / count)
        products = tokens * dense / macs[bits, tokens]
        products += tokens * layers * experts * 3 * HIDDEN * WIDTH / macs[bits, each]
        found.append(Step(seconds, products, layers, count, tokens))
    return found


def _one(decoder: "Decoder", tokens: int, is_draft: bool) -> None:
    """Run one step of so many tokens."""
    import torch

    had = len(decoder.tokens[0])
    decoder.begin_round()
    if is_draft:
        decoder.draft(0, [])
    else:
        decoder.verify([torch.tensor([n % VOCABULARY]) for n in range(1, tokens)])
    decoder.release_staging()
    del decoder.tokens[0][had + 1 :]


def _count_experts(decoder: "Decoder") -> list[int]:
    """Return a list that gets the number of experts that every layer computes from now on."""
    found: list[int] = []
    decoder.kernels.routed = lambda layer, is_draft, chosen: found.append(len(set(chosen.flatten().tolist())))
    return found


def _median_seconds(decoder: "Decoder", tokens: int, is_draft: bool) -> float:
    """Return the median seconds of steps, but for the first and for waits."""
    seconds, traffic = [], decoder.store.staging.traffic
    for _ in range(STEPS + 1):
        start, waited = time.perf_counter(), traffic.waited_seconds
        _one(decoder, tokens, is_draft)
        seconds.append(time.perf_counter() - start - (traffic.waited_seconds - waited))
    return float(np.median(seconds[1:]))


def _small_model(layers: int, experts: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3_moe",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": HIDDEN // 4,
        "intermediate_size": HIDDEN,
        "moe_intermediate_size": WIDTH,
        "num_experts": COUNT,
        "num_experts_per_tok": experts,
        "max_position_embeddings": CAPACITY,
    }


def _document(name: str, found: Measured) -> dict[str, Any]:
    import shutil

    import torch

    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} CPUs"
    how = f"measured by moec calibrate: torch {torch.__version__}, {threads}"
    rates = found.macs_per_second
    return {
        "schema": 2,
        "name": name if name[:1].isalnum() else f"m{name}",
        "description": f"This machine as moec run uses it, {how}",
        "memories": {
            "dram": {
                "capacity_gb": _short(total * 1024 / 1e9),
                "bandwidth_gb_s": _short(2 * found.copy_bytes_per_second / 1e9),
                "latency_ns": 100,
                "source": {"capacity_gb": "all of it", "bandwidth_gb_s": f"a copy, read and written; {how}"},
                "assumed": {"latency_ns": "a DRAM read under load"},
            },
            "disk": {
                "capacity_gb": _short(shutil.disk_usage("/").total / 1e9),
                "bandwidth_gb_s": _short(found.disk_bytes_per_second / 1e9),
                "latency_ns": round(found.disk_latency_seconds * 1e9),
                "source": f"direct reads of {READ_BYTES[0]:,} bytes; latency of loads while a model decodes; {how}",
            },
        },
        "engines": {
            "cpu": {
                "memory": "dram",
                "tops": {
                    "w4a16": _tops(rates[4, WIDTHS[-1]]),
                    "w8a16": _tops(rates[8, WIDTHS[-1]]),
                    "attention": _tops(found.attention_macs_per_second),
                },
                "tops_by_width": {width: _tops(rates[8, width]) for width in WIDTHS},
                "step_overhead_us": _short(found.step_seconds * 1e6),
                "layer_overhead_us": _short(found.layer_seconds * 1e6),
                "expert_overhead_us": _short(found.expert_seconds * 1e6),
                "width_overhead_us": _short(found.token_seconds * 1e6),
                "source": f"the runtime's kernel; fixed times of whole steps, fitted within {found.misfit:.0%}; {how}",
            }
        },
        "links": {
            "read": {
                "from": "disk",
                "to": "dram",
                "bandwidth_gb_s": _short(found.disk_bytes_per_second / 1e9),
                "latency_ns": 0,
                "source": "of the disk's reads",
            }
        },
    }


def _tops(macs_per_second: float) -> float:
    return _short(2 * macs_per_second / 1e12)


def _short(value: float) -> float:
    """Return a figure to four digits: more was not measured."""
    return float(f"{value:.4g}")
