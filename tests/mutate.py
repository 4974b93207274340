"""Run mutants: make one thing wrong in a copy of the project, and see whether the tests of its folder notice.

python tests/mutate.py              # all; exit 5 if one survives
python tests/mutate.py --fast       # those that CI runs
python tests/mutate.py --only rcpsp # those whose name or file holds a word
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mutants import MUTANTS, Mutant, mutated

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "passes",
    "moe_compiler",
    "tests",
    "benchmarks",
    "targets",
    "examples",
    "docs",
    "mkdocs.yml",
    "README.md",
    "pyproject.toml",
)
EXIT_FAILED = 5
MINUTES = 5
"""Of a mutant: one that makes its tests wait for ever is caught by then."""


def run(mutant: Mutant) -> dict[str, Any]:
    """Run the tests of a mutant's folder on it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        for part in COPIED:
            source = ROOT / part
            ignore = shutil.ignore_patterns("__pycache__")
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / part, **({"ignore": ignore, "symlinks": True} if source.is_dir() else {}))
        file = folder / mutant.file
        file.write_text(mutated(mutant, file.read_text()))
        start = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{folder / 'passes'}", "MOE_DATA": str(folder / "none")}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", mutant.tests]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60 * MINUTES, check=False
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = 1
        seconds = round(time.perf_counter() - start, 1)
        return {"mutant": mutant.name, "caught": code == 1, "code": code, "seconds": seconds, "tests": mutant.tests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="run those that CI runs")
    parser.add_argument("--only", default="", help="run those whose name, file or tests hold this word")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if (m.fast or not options.fast) and options.only in f"{m.name} {m.file} {m.tests}"]
    rows = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(run, chosen):
            rows.append(row)
            verdict = "caught" if row["caught"] else f"SURVIVED ({row['code']})"
            print(f"{verdict:14} {row['seconds']:6.1f} s  {row['mutant']}  [{row['tests']}]", file=sys.stderr)
    survived = [row["mutant"] for row in rows if not row["caught"]]
    if options.json:
        print(json.dumps({"mutants": rows, "survived": survived}, indent=1))
    print(f"{len(rows) - len(survived)} of {len(rows)} mutants caught", file=sys.stderr)
    sys.exit(EXIT_FAILED if survived else 0)


if __name__ == "__main__":
    main()
