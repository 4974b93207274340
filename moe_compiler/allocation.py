"""Allocate the buffers of a file: read, solve, check, and the document that `moec allocate --json` prints."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_passes.plan.errors import InputError
from moe_passes.plan.request import SEED, Range

from moe_compiler.formats.allocation_file import LARGEST, Table, read


def allocate(
    file: str | Path,
    capacity: int,
    *,
    time_limit: float = 60.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[dict[str, Any], str | None]:
    """Give every buffer of a file an address below a capacity, so that none overlap in time and address.

    Args:
        file: the buffers (docs/allocate.md).
        capacity: bytes of the memory.
        time_limit: deterministic seconds of search.
        seed: of the search.
        progress: told how many buffers there are.

    Returns:
        The document of docs/allocate.md, and the file with every offset; None where there is no allocation.

    Raises:
        InputError: the file or an argument is wrong.
    """
    Range(1, LARGEST - 1).check("--capacity", capacity)
    SEED.check("--seed", seed)
    if not 0 < time_limit < math.inf:
        raise InputError(f"--time-limit {time_limit}; valid: a number of seconds above 0")
    table = read(Path(file))
    progress(f"{len(table.ids)} buffers")
    document, offsets = _solve(table, capacity, seed, time_limit)
    return document, None if offsets is None else table.with_offsets(offsets)


def _solve(table: Table, capacity: int, seed: int, time_limit: float) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    from moe_passes.solve.allocation.check import violations
    from moe_passes.solve.allocation.problem import Problem
    from moe_passes.solve.allocation.solver import solve

    document: dict[str, Any] = {"status": "infeasible", "capacity": capacity, "peak": None, "lower_bound": None}
    document |= {"gap": None, "greedy": None, "seed": seed, "conflict": [], "buffers": []}
    alone = [n for n, b in enumerate(table.buffers) if (b.fixed or 0) + b.size > capacity]
    if alone:
        return document | {"conflict": [table.ids[alone[0]]]}, None
    problem = Problem(capacity, table.buffers, alignment_bytes=1)
    found = solve(problem, seed, time_limit)
    document |= {"status": found.status, "lower_bound": found.lower_bound_bytes, "greedy": found.greedy_bytes}
    if found.status in ("infeasible", "unknown"):
        return document | {"conflict": [table.ids[n] for n in found.conflict]}, None
    wrong = violations(problem, found.offsets)
    if wrong:
        raise AssertionError("allocate: " + "; ".join(wrong[:5]))
    document["peak"] = found.peak_bytes
    document["gap"] = (found.peak_bytes - found.lower_bound_bytes) / found.peak_bytes if found.peak_bytes else 0.0
    document["buffers"] = [{"id": i, "offset": o} for i, o in zip(table.ids, found.offsets, strict=True)]
    return document, found.offsets
