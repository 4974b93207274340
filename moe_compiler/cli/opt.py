"""`moec opt`."""

import sys
from pathlib import Path

import click
from moe_passes.errors import InputError

from moe_compiler.cli.progress import progress
from moe_compiler.emit.folder import write_file

EXAMPLES = """
\b
Examples:
  moec opt out/ir/02-select-draft.mlir -p partition-experts,lower-to-tasks
  moec opt - -p 'schedule-round{time-limit=2},allocate-staging,verify-plan' < round.mlir
  moec opt plan.mlir -p verify-plan --profile my-trace.npz -o checked.mlir
"""


@click.command("opt", epilog=EXAMPLES)
@click.argument("file")
@click.option(
    "-p", "--pipeline", required=True, help="Passes to run, as text: name{option=value},name (`moec passes`)."
)
@click.option("--profile", help="The routing trace, where a pass reads it and it is not a shipped one.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="File to write; default: stdout.")
def opt_command(file: str, pipeline: str, profile: str | None, output: Path | None) -> None:
    """Run passes on IR text (FILE, or - for stdin), verify, and print the IR."""
    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"-o '{output}': valid: the path of a file")
    text = _read(file)
    with progress(f"opt {file}") as report:
        from moe_passes.dialects import parse
        from moe_passes.pipeline import parse_pipeline, run_pipeline

        from moe_compiler.driver import PassFailureError, moe_context, read_profile

        steps = parse_pipeline(pipeline)
        module = parse(text, "<stdin>" if file == "-" else file, moe_context())
        try:
            run_pipeline(
                module,
                steps,
                lambda module: read_profile(module, profile),
                before=lambda step, module: report(step.info.name),
            )
        except (InputError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise PassFailureError("the pipeline", pipeline, text, profile) from error
    if output is None:
        click.echo(str(module), nl=False)
    else:
        write_file(output, str(module))


def _read(file: str) -> str:
    if file == "-" and sys.stdin is None:
        raise InputError("-: stdin is closed")
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as text: {error}") from None
