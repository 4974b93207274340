"""One traced layer of each kind against the whole model: seconds, and whether the raised IR is the same. JSON.

    python benchmarks/trace.py qwen3-30b-a3b olmoe-1b-7b
    python benchmarks/trace.py --once deepseek-v3

Both are traced in one process, imports done before. `--once` leaves the whole model out.
"""

import argparse
import json
import time
from typing import Any
from unittest import mock

from moe_passes.ir.dialects import context
from moe_passes.ir.module import append, text_of
from moe_passes.ir.pipeline import parse_pipeline, run_pipeline
from moe_passes.plan.request import AUTO_LENGTH, Request

from moe_compiler.frontend import graph
from moe_compiler.frontend.models import load_model


def raised(model: str) -> tuple[float, str]:
    """Return seconds of a trace, and the raised IR."""
    began = time.perf_counter()
    module = graph.trace(load_model(model), 1, context())
    seconds = time.perf_counter() - began
    append(module, Request(1, 1024, AUTO_LENGTH, 0, 0.0))
    run_pipeline(module, parse_pipeline("raise-moe"))
    return seconds, text_of(module)


def row(model: str, is_compared: bool) -> dict[str, Any]:
    """Trace a model by layers of each kind, and whole."""
    seconds, text = raised(model)
    found: dict[str, Any] = {"model": model, "seconds": seconds}
    if is_compared:
        with mock.patch.object(graph, "representatives", lambda layers, config: tuple(range(len(layers)))):
            whole, same = raised(model)
        found |= {"whole_seconds": whole, "ratio": whole / seconds, "is_same": same == text}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["qwen3-30b-a3b"], help="default: qwen3-30b-a3b")
    parser.add_argument("--once", action="store_true", help="do not trace the whole model")
    options = parser.parse_args()
    raised("olmoe-1b-7b")
    print(json.dumps([row(model, not options.once) for model in options.models], indent=1))


if __name__ == "__main__":
    main()
