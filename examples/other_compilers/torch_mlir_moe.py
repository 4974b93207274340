"""Place the experts of a module that torch-mlir wrote, and hand it back to torch-mlir.

    python examples/other_compilers/torch_mlir_moe.py work

`work/theirs.mlir`: two of transformers' own Mixtral blocks, imported by `torch_mlir.fx.export_and_import`; nothing of
ours has seen it. `work/placed.mlir`: the same module after `moec opt -p find-experts,keep-popular,partition-experts`,
their function untouched, beside it where each expert lies. `work/back.mlir`: that, read and written by torch-mlir's own
`torch-mlir-opt`, which our IRDL definition tells what the `moe` dialect is.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_mlir import fx
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

TARGET = ("--target", "elmoe3d-4gb", "--set", "memories.hb.capacity_gb=0.0003", "--batch", "4")
BIN = Path(sys.executable).parent


class Blocks(nn.Module):
    """Two MoE blocks on a residual stream."""

    def __init__(self, config: MixtralConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MixtralSparseMoeBlock(config) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        """Run [batch, tokens, hidden]."""
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden


def theirs() -> str:
    """Return what torch-mlir writes."""
    config = MixtralConfig(hidden_size=64, intermediate_size=96, num_local_experts=8, num_experts_per_tok=2)
    config._experts_implementation = "batched_mm"
    torch.manual_seed(0)
    model = Blocks(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    with torch.no_grad():
        return str(fx.export_and_import(model, torch.zeros(1, 8, 64), output_type="torch", func_name="decode"))


def main(folder: Path) -> None:
    """Write, place, hand back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "theirs.mlir").write_text(theirs())
    moec = BIN / "moec"
    passes = "find-experts{model=mixtral-blocks},keep-popular,partition-experts"
    command = [moec, "opt", folder / "theirs.mlir", "-p", passes, *TARGET, "-o", folder / "placed.mlir"]
    subprocess.run(command, check=True)
    dialect = subprocess.run([moec, "dialect", "--irdl"], check=True, capture_output=True, text=True).stdout
    (folder / "moe.irdl.mlir").write_text(dialect)
    tool = BIN / "torch-mlir-opt" if (BIN / "torch-mlir-opt").exists() else shutil.which("torch-mlir-opt")
    back = [tool, f"--irdl-file={folder / 'moe.irdl.mlir'}", folder / "placed.mlir", "-o", folder / "back.mlir"]
    subprocess.run(back, check=True)
    shown = [moec, "show", folder / "placed.mlir", "--op", "moe.expert_store", "--op", "moe.bank_set"]
    print(subprocess.run(shown, check=True, capture_output=True, text=True).stdout, end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
