"""The `moec` command group: one file a command, loaded when it is called."""

from importlib import import_module

import click

import moe_compiler

EXAMPLES = """
\b
Examples:
  moec compile qwen3-30b-a3b --target elmoe3d-8gb -o out
  moec compile olmoe-1b-7b --target elmoe3d-8gb --set memories.hb.capacity_gb=4 --json -o out
  moec estimate qwen3-30b-a3b --target rtx5080-ddr5 --format gguf:q4_k_m
  moec partition --trace trace.npz --model mixtral-8x7b --target elmoe3d-64gb
  moec allocate buffers.csv --capacity 1048576 -o placed.csv
  moec schedule problem.json --json
  moec profile my-model/ --weights my-model/ --text corpus.txt -o my-model.npz
  moec pack my-model/ --weights my-model/ -o my-model.store
  moec run out --weights my-model.store --prompt "def main():" --max-new-tokens 64
  moec opt out/ir/03-partition-experts.mlir -p choose-dispatch,lower-to-tasks,schedule-round
  moec show out/ir/09-verify-plan.mlir --op sched.task
  moec explain out --expert 5.12
  moec report out
  moec export out --to llama.cpp
  moec diff out out2
  moec target show elmoe3d-8gb

\b
Exit codes: 0 done, 1 the reader of stdout went away, 2 input that cannot be compiled (the message
says why), 3 no answer exists, 4 none was found in the limit, 5 a check or comparison failed, 70 a bug
in moec, 130 interrupted.
"""

COMMANDS = {
    "compile": "compile:compile_command",
    "estimate": "estimate:estimate_command",
    "profile": "profile:profile_group",
    "pack": "pack:pack_command",
    "unpack": "pack:unpack_command",
    "run": "run:run_command",
    "calibrate": "calibrate:calibrate_command",
    "explain": "explain:explain_command",
    "export": "export:export_command",
    "report": "report:report_command",
    "diff": "diff:diff_command",
    "opt": "opt:opt_command",
    "show": "show:show_command",
    "partition": "partition:partition_command",
    "placement": "placement:placement_group",
    "allocate": "allocate:allocate_command",
    "schedule": "schedule:schedule_command",
    "passes": "lists:passes_command",
    "models": "lists:models_command",
    "targets": "lists:targets_command",
    "dialect": "dialect:dialect_command",
    "schema": "schema:schema_command",
    "target": "target:target_group",
}
"""Where each command is, by its name."""


class LazyGroup(click.Group):
    """Imports a command when it is called or described, so that the others cost nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"moe_compiler.cli.{module}"), name)
        return command


@click.group(cls=LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(moe_compiler.__version__, prog_name="moec")
def cli() -> None:
    """Compile mixture-of-experts models for memory-bound machines."""
