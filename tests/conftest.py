import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from public import FOLDER, public

from moe_compiler.cli.main import collect_seldom

if not torch.cuda.is_available():
    # Before anything imports Triton: its own functions are interpreted or compiled as it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Two workers share two cores; tiny matrices gain nothing from threads.
torch.set_num_threads(1)
collect_seldom()

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
}
TINY = {
    "qwen3_moe": {
        "head_dim": 32,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
    },
    "mixtral": {"intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2},
    "olmoe": {"intermediate_size": 64, "num_experts": 16, "num_experts_per_tok": 4},
    "gpt_oss": {
        "head_dim": 32,
        "intermediate_size": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "quantization_config": {"quant_method": "mxfp4"},
    },
    "qwen2_moe": {
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 128,
        "num_experts": 12,
        "num_experts_per_tok": 4,
    },
    "phimoe": {
        "intermediate_size": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
    },
    "deepseek_v2": {**MLA, "q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "deepseek_v3": {**MLA, "n_group": 4, "topk_group": 2},
    "glm4_moe_lite": {**MLA, "n_group": 1, "topk_group": 1},
}


def public_data(name: str) -> Path:
    """A file of public data, which is no part of the project; the test is skipped where it is not there."""
    path = public(name)
    if path is None:
        pytest.skip(f"public data {name} is not in {FOLDER} (MOE_DATA)")
    return path


def tiny_config(model_type: str, **changes) -> dict:
    """A real architecture, small enough to run: three layers, hidden 64."""
    return {"model_type": model_type, **BASE, **TINY[model_type], **changes}


def write_tiny(folder: Path, model_type: str = "qwen3_moe", **changes) -> Path:
    """Write a tiny config.json into a folder; returns it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_config(model_type, **changes)))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Shapes of models are kept for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny(tmp_path: Path):
    """Write a tiny config.json; returns its folder."""

    def write(model_type: str = "qwen3_moe", **changes) -> Path:
        return write_tiny(tmp_path / f"tiny-{model_type}", model_type, **changes)

    return write


TRACED: dict[str, str] = {}
"""Text of every model and batch that this process has traced."""


@contextlib.contextmanager
def little_effort() -> Iterator[None]:
    """Trace a model once a process, and let searches end early: tests of both do without this.

    Tracing and searching are most of a tiny model's compile, and the same in each of a hundred tests.
    """
    from moe_passes.ir.dialects import parse
    from moe_passes.ir.module import text_of
    from moe_passes.ir.passes import partition_experts
    from moe_passes.solve.draft import history, prepare
    from moe_passes.solve.draft import solver as draft

    from moe_compiler import calibration, placement
    from moe_compiler.evaluate import held_out
    from moe_compiler.frontend import graph

    trace = graph.trace

    def traced_once(source, batch, ctx):
        key = f"{source} {batch}"
        if key not in TRACED:
            TRACED[key] = text_of(trace(source, batch, ctx))
        return parse(TRACED[key], "trace", ctx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "trace", traced_once)
        patch.setattr(held_out, "CLAIRVOYANT_SECONDS", 0.02)
        patch.setattr(held_out, "ROUNDS", 2)
        patch.setattr(held_out, "TOKENS", 2)
        patch.setattr(prepare, "MOST_ROUNDS", 16)
        patch.setattr(history, "LEAST_TOKENS", 2)
        patch.setattr(history, "MOST_TOKENS", 2)
        patch.setattr(prepare, "LONGEST_AUTO", 4)
        patch.setattr(prepare, "RULES", prepare.RULES[:1] + prepare.RULES[-2:])
        patch.setattr(draft, "FURTHER", ())
        patch.setattr(draft, "NEAR", 0.0)
        patch.setattr(draft, "SWEEPS", 1)
        patch.setattr(partition_experts, "WORK", 400_000)
        patch.setattr(placement, "WORK", 1_000_000)
        patch.setattr(calibration, "LEAST_SECONDS", 0.01)
        patch.setattr(calibration, "REPEATS", 1)
        patch.setattr(calibration, "COLD_BYTES", 2**24)
        patch.setattr(calibration, "DISK_BYTES", 2**25)
        patch.setattr(calibration, "STEPS", 2)
        yield


@pytest.fixture(scope="module")
def small():
    """`little_effort` for a file of tests."""
    with little_effort():
        yield


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """One compilation of a tiny model that keeps a part of its experts in HB, for tests that only look at it."""
    import moe_compiler

    folder = write_tiny(tmp_path_factory.mktemp("tiny") / "tiny-qwen3")
    with little_effort():
        return moe_compiler.compile(
            str(folder),
            "elmoe3d-4gb",
            overrides=["memories.hb.capacity_gb=0.00026"],
            draft_length=3,
            context=64,
            time_limit=1,
            profile="synthetic-800tokens-seed0",
        )
