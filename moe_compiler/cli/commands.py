"""The `moec` command group: one file a command, wired up here."""

import click

import moe_compiler
from moe_compiler.cli.allocate import allocate_command
from moe_compiler.cli.compile import compile_command
from moe_compiler.cli.dialect import dialect_command
from moe_compiler.cli.lists import models_command, passes_command, targets_command
from moe_compiler.cli.opt import opt_command
from moe_compiler.cli.partition import partition_command
from moe_compiler.cli.placement import placement_group
from moe_compiler.cli.schedule import schedule_command
from moe_compiler.cli.target import target_group

EXAMPLES = """
\b
Examples:
  moec compile qwen3-30b-a3b --target elmoe3d-8gb -o out
  moec compile olmoe-1b-7b --target elmoe3d-8gb --set memories.hb.capacity_gb=4 --json -o out
  moec partition --trace mixtral-8x7b-coding --model mixtral-8x7b --target elmoe3d-64gb
  moec allocate buffers.csv --capacity 1048576 -o placed.csv
  moec schedule problem.json --json
  moec opt out/ir/03-partition-experts.mlir -p lower-to-tasks,schedule-round
  moec target show elmoe3d-8gb

\b
Exit codes: 0 done, 1 the reader of stdout went away, 2 input that cannot be compiled (the message
says why), 3 no answer exists, 4 none was found in the limit, 70 a bug in moec, 130 interrupted.
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(moe_compiler.__version__, prog_name="moec")
def cli() -> None:
    """Compile mixture-of-experts models for memory-bound machines."""


for command in (
    compile_command,
    opt_command,
    partition_command,
    placement_group,
    allocate_command,
    schedule_command,
    passes_command,
    models_command,
    targets_command,
    dialect_command,
    target_group,
):
    cli.add_command(command)
