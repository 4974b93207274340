"""`moec`: the command line. One file a command; this one wires them up and turns errors into exit codes."""

import sys
import tempfile
import traceback
from pathlib import Path

import click
from moe_passes.errors import InputError

import moe_compiler
from moe_compiler.cli.compile import compile_command
from moe_compiler.cli.dialect import dialect_command
from moe_compiler.cli.lists import models_command, passes_command, targets_command
from moe_compiler.cli.opt import opt_command
from moe_compiler.cli.target import target_group

EXIT_INPUT = 2
EXIT_BUG = 70
EXIT_INTERRUPTED = 130

EXAMPLES = """
\b
Examples:
  moec compile qwen3-30b-a3b --target elmoe3d-8gb -o out
  moec compile olmoe-1b-7b --target elmoe3d-8gb --set memories.hb.capacity_gb=4 --json -o out
  moec opt out/ir/03-partition-experts.mlir -p lower-to-tasks,schedule-round
  moec target show elmoe3d-8gb

\b
Exit codes: 0 done, 2 input that cannot be compiled (the message says why), 70 a bug in moec.
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(moe_compiler.__version__, prog_name="moec")
def cli() -> None:
    """Compile mixture-of-experts models for memory-bound machines."""


for command in (
    compile_command,
    opt_command,
    passes_command,
    models_command,
    targets_command,
    dialect_command,
    target_group,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_INPUT)
    except (click.Abort, KeyboardInterrupt):
        print("moec: interrupted; nothing was written", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except InputError as error:
        print(f"moec: error: {error}", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        _report_bug(error)
        sys.exit(EXIT_BUG)


def _report_bug(error: Exception) -> None:
    """Keep the IR and a command that reproduces the failure."""
    from moe_compiler.driver import PassFailureError

    folder = Path(tempfile.mkdtemp(prefix="moec-bug-"))
    (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    lines = [
        f"moec: this is a bug in moec: {type(error).__name__}: {error}",
        f"  command:   {' '.join(sys.argv)}",
        f"  traceback: {folder / 'traceback.txt'}",
    ]
    if isinstance(error, PassFailureError):
        (folder / "before.mlir").write_text(error.text)
        lines.append(f"  reproduce: moec opt {folder / 'before.mlir'} -p '{error.rest}'")
    print("\n".join(lines), file=sys.stderr)
