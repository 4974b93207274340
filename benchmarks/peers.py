"""What people use instead of the emitted schedule, for `benchmarks/run.py`; and a cache that knows the future.

    python benchmarks/peers.py --checkpoint DIR --batch 4 --memory-mb 1800     # (d) alone, JSON on stdout

(a) and (b) are put in the place of a run's expert store and round. (d) is a process of its own, in a control group of
so much memory (Linux with control groups of version 1, as root); its weights are BF16.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OFFLOADED_TOKENS = 4
Key = tuple[int, int]
"""Decoder layer, expert."""


def least_loads(asked: Sequence[Key], slots: int, first: int = 0) -> int:
    """Return how many experts a cache of so many loads that knows the future, from the `first` that is asked for on.

    What is asked for again last gives way: no cache loads fewer in all of what is asked for in this order (Belady, "A
    study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5, 1966). Of what comes after
    the first, one that cares for nothing else might load a few less: as many as it has places.
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


def lru_round(decoder: Any) -> list[list[int]]:
    return decoder.verify([])  # type: ignore[no-any-return]


def serial_round(length: int) -> Callable[[Any], list[list[int]]]:
    """Return the compiled round without anything that is loaded ahead."""

    def round_(decoder: Any) -> list[list[int]]:
        decoder.begin_round()
        drafts: list[Any] = []
        for step in range(length):
            drafts.append(decoder.draft(step, drafts))
        accepted: list[list[int]] = decoder.verify(drafts)
        decoder.release_staging()
        return accepted

    return round_


def serial_store() -> type:
    from moe_compiler.runtime.staging import WAITED_FOR
    from moe_compiler.runtime.store import ExpertStore

    class SerialStore(ExpertStore):
        """Reads an expert when it is computed, and not before."""

        def _load(self, wanted: Iterable[tuple[Any, int]]) -> None:
            """Load nothing ahead."""

        def arriving(self, layer: int, experts: Sequence[int], engine: str) -> Iterator[int]:
            """Compute in program order."""
            yield from super().arriving(layer, experts, "first")

        @contextmanager
        def verified(self, layer: int, expert: int) -> Iterator[Any]:
            """Read what is missing of an expert, and hold it."""
            if not self.is_whole((layer, expert)):
                ExpertStore._load(self, [((layer, expert), WAITED_FOR)])
            with super().verified(layer, expert) as matrices:
                yield matrices

    return SerialStore


def lru_store(slots: int, accesses: list[Key]) -> type:
    from moe_compiler.runtime.far import read
    from moe_compiler.runtime.packing import REST, SLICE, padded
    from moe_compiler.runtime.plan import Plan
    from moe_compiler.runtime.store import ExpertStore

    class LruStore(ExpertStore):
        """Whole experts, read on demand into a cache that forgets what was used longest ago."""

        def __init__(self, plan: Any, far: Any, near: Any = None) -> None:
            super().__init__(Plan(), far)
            sizes = [(layout.slice_bytes, layout.rest_bytes) for layout in far.layouts.values()]
            self.free = [
                tuple(far.rooms(padded(max(size[piece] for size in sizes))) for piece in (0, 1)) for _ in range(slots)
            ]
            self.near.bytes = sum(len(part) for pair in self.free for part in pair)
            self.cached: OrderedDict[tuple[int, int], Any] = OrderedDict()

        def decided(self, layer: int, chosen: Sequence[Sequence[int]]) -> None:
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


def offload(checkpoint: Path, folder: str, batch: int, memory_mb: float) -> dict[str, Any]:
    """Generate with transformers and accelerate, every layer in a folder; returns tokens a second, and each step's."""
    import torch
    from transformers import AutoModelForCausalLM

    group = Path("/sys/fs/cgroup/memory/moec-benchmark")
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
    return found | {"limit_mb": limit / 1e6, "baseline_mb": baseline / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a Hugging Face checkpoint")
    parser.add_argument("--batch", type=int, default=1, help="sequences")
    parser.add_argument("--memory-mb", type=float, required=True, help="beside what the process starts with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.checkpoint.parent) as folder:
        print(json.dumps(offload(options.checkpoint, folder, options.batch, options.memory_mb)))


if __name__ == "__main__":
    main()
