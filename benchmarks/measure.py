"""Run one `moec compile` in a process of its own and measure it."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MOEC = Path(sys.executable).parent / "moec"


def compile_once(model: str, target: str, *options: str) -> dict[str, Any]:
    """Compile once; return wall seconds, peak MiB of the process, seconds per step, and cost.json."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        command = [str(MOEC), "compile", model, "--target", target, *options, "-o", str(output)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        _, errors = process.communicate()
        seconds = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\n{errors}")
        record = json.loads((output / "compile.json").read_text())
        return {
            "model": model,
            "target": target,
            "seconds": round(seconds, 2),
            "peak_mib": round(record["peak_mib"]),
            "steps": {step["step"]: round(step["seconds"], 3) for step in record["steps"]},
            "cost": json.loads((output / "cost.json").read_text()),
        }
