"""`moec opt`."""

import sys
from pathlib import Path

import click
from moe_passes.errors import InputError

from moe_compiler.cli.progress import progress

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
    text = _read(file)
    with progress(f"opt {file}") as report:
        from moe_passes.dialects import parse
        from moe_passes.pipeline import parse_pipeline, run_pipeline

        from moe_compiler.driver import moe_context, read_profile

        steps = parse_pipeline(pipeline)
        module = parse(text, "<stdin>" if file == "-" else file, moe_context())
        run_pipeline(
            module,
            steps,
            lambda module: read_profile(module, profile),
            before=lambda step, module: report(step.info.name),
        )
    _write(str(module), output)


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text: {error}") from None


def _write(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    draft = output.with_name(f".{output.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(output)
    except OSError as error:
        raise InputError(f"-o {output}: cannot be written: {error.strerror}") from None
