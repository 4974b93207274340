"""Independent check of an allocation. Shares no code with the solver."""

from moe_passes.solve.allocation.problem import Problem


def violations(problem: Problem, offsets: tuple[int, ...]) -> list[str]:
    """Return everything that is wrong with an allocation; empty if it is valid."""
    if len(offsets) != len(problem.buffers):
        return [f"{len(offsets)} offsets for {len(problem.buffers)} buffers"]
    wrong = []
    for number, (offset, buffer) in enumerate(zip(offsets, problem.buffers, strict=True)):
        if offset < 0 or offset + buffer.size > problem.capacity_bytes:
            wrong.append(f"buffer {number} at {offset} does not lie within {problem.capacity_bytes} bytes")
        alignment = problem.alignment_bytes if buffer.alignment is None else buffer.alignment
        if offset % alignment:
            wrong.append(f"buffer {number} at {offset} is not aligned to {alignment}")
        if buffer.fixed is not None and offset != buffer.fixed:
            wrong.append(f"buffer {number} lies at {offset}, not at its fixed offset {buffer.fixed}")
    by_start = sorted(range(len(offsets)), key=lambda n: problem.buffers[n].lower)
    alive: list[int] = []
    for n in by_start:
        buffer = problem.buffers[n]
        if buffer.upper == buffer.lower:
            continue
        alive = [m for m in alive if problem.buffers[m].upper > buffer.lower]
        for m in alive:
            if offsets[m] < offsets[n] + buffer.size and offsets[n] < offsets[m] + problem.buffers[m].size:
                wrong.append(f"buffers {m} and {n} overlap in time and address")
        alive.append(n)
    return wrong
