"""What memory this process has, as the kernel counts it; 0 where it does not say."""

import resource
from pathlib import Path


def reset_peak() -> int:
    """Let the peak of this process's memory begin anew; returns what it has now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most memory that this process has had since `reset_peak`."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def data_bytes() -> int:
    """Return what `RLIMIT_DATA` counts."""
    return _status("VmData")


def is_exhausted(error: BaseException) -> bool:
    """Say whether an error of torch's means that memory is exhausted: there is an exception for that on a GPU only."""
    return any(words in str(error) for words in ("allocate memory", "out of memory"))


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
