"""Plan for a Hugging Face model inside `torch.compile`.

    python examples/other_compilers/torch_compile.py out

A small Qwen3-MoE with random weights is compiled with `backend="moe_compiler"`: what it computes is what it computed
before, and `out` holds the plan, the IR after every pass and the cost estimate of the graph that Dynamo captured.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig


def main(folder: Path) -> None:
    """Compile, run, compare."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        moe_intermediate_size=64,
        intermediate_size=128,
        num_experts=16,
        num_experts_per_tok=4,
        vocab_size=128,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    options = {
        "target": "elmoe3d-4gb",
        "overrides": ["memories.hb.capacity_gb=0.0003"],
        "context": 64,
        "time_limit": 0.5,
        "output": folder,
    }
    planned = torch.compile(model, backend="moe_compiler", options=options)
    tokens = torch.arange(8).view(1, 8)
    with torch.no_grad():
        same = torch.equal(planned(input_ids=tokens).logits, model(input_ids=tokens).logits)
    cost = json.loads((folder / "cost.json").read_text())
    print(f"same result: {same}; {cost['token']['seconds'] * 1e6:.3g} µs a token on {cost['target']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
