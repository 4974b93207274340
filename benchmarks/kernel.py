"""How fast an expert is multiplied with at one row, beside a copy of memory in the same run; JSON on stdout.

    python benchmarks/kernel.py
    python benchmarks/kernel.py --experts 400 --repeats 7

Experts of OLMoE-1B-7B's shape one after the other, more of them than a cache holds: whole ones as verify computes them,
slices as the draft does, and one expert again and again. Bytes of packed weights a second, medians of the repeats.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch

from moe_compiler.runtime.linear import KERNEL, multiply, warm_up
from moe_compiler.runtime.quantise import Packed, quantise

HIDDEN, WIDTH = 2048, 1024
COPIED_BYTES = 2**27

Expert = tuple[Packed, Packed]


def made() -> Expert:
    """Make the matrices of an expert: gate and up one below the other, and down."""
    return quantise(torch.randn(2 * WIDTH, HIDDEN)), quantise(torch.randn(HIDDEN, WIDTH))


def read_bytes(expert: Expert, is_slice: bool) -> int:
    """Return the bytes of weights and scales that are computed with."""
    tensors = [t for part in expert for t in (part.top, part.scale, None if is_slice else part.low) if t is not None]
    return sum(t.nbytes for t in tensors)


def compute(expert: Expert, row: torch.Tensor, is_slice: bool) -> torch.Tensor:
    gate, up = multiply(row, expert[0], is_slice).chunk(2, dim=1)
    return multiply(torch.nn.functional.silu(gate) * up, expert[1], is_slice)


def rate(work: Callable[[], object], size: int) -> float:
    """Return the GB/s of work on so many bytes."""
    begun = time.perf_counter()
    work()
    return size / (time.perf_counter() - begun) / 1e9


def measure(experts: Sequence[Expert], repeats: int) -> dict[str, float]:
    """Return medians, all measured in turns: GB/s of a copy (each byte counted once) and of the kernel."""
    row = torch.randn(1, HIDDEN)
    source, target = (torch.ones(COPIED_BYTES, dtype=torch.uint8) for _ in range(2))

    def all_of(chosen: Sequence[Expert], is_slice: bool) -> float:
        size = sum(read_bytes(expert, is_slice) for expert in chosen)
        return rate(lambda: [compute(expert, row, is_slice) for expert in chosen], size)

    ways: dict[str, Callable[[], float]] = {
        "copy": lambda: rate(lambda: target.copy_(source), COPIED_BYTES),
        "whole": lambda: all_of(experts, False),
        "slice": lambda: all_of(experts, True),
        "whole_in_cache": lambda: all_of([experts[0]] * len(experts), False),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=200, help="in turn, 6.7 MB each (default: 200)")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (default: 5)")
    options = parser.parse_args()
    warm_up()
    first = made()
    experts = [deepcopy(first) for _ in range(options.experts)]
    rates = measure(experts, options.repeats)
    shares = {name: rates[name] / rates["copy"] for name in rates if name != "copy"}
    print(json.dumps({"kernel": KERNEL, "gb_s": rates, "of_a_copy": shares}, indent=1))


if __name__ == "__main__":
    main()
