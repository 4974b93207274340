"""`moec opt`."""

from pathlib import Path

import click
from moe_passes.plan.errors import InputError

from moe_compiler.cli.progress import progress
from moe_compiler.cli.text import read_text, title

EXAMPLES = """
\b
Examples:
  moec opt out/ir/02-select-draft.mlir -p partition-experts,choose-dispatch,lower-to-tasks
  moec opt - -p 'schedule-round{time-limit=2},allocate-staging,steady-state,verify-plan' < round.mlir
  moec opt plan.mlir -p verify-plan --profile my-trace.npz -o checked.mlir
  moec opt out/ir/01-raise-moe.mlir -p canonicalize,cse,select-draft --print-ir-after-change --mlir-timing
  moec opt theirs.mlir -p find-experts,keep-popular,partition-experts --target elmoe3d-8gb -o placed.mlir

\b
Passes are ours (`moec passes`), those of other packages, and MLIR's own that take a module. Printing,
timing and verification work as in mlir-opt; they go to stderr. --target is for modules of other compilers, which
name no machine: it stands in the result, with the batch, the context and the seed.
"""


def _names(context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for text in value for name in text.split(",") if name)


@click.command("opt", epilog=EXAMPLES)
@click.argument("file")
@click.option(
    "-p", "--pipeline", required=True, help="Passes to run, as text: name{option=value},name (`moec passes`)."
)
@click.option("--profile", help="The routing trace, where a pass reads it and it is not a synthetic one.")
@click.option("--target", help="Hardware file, where the module names no machine.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of --target.")
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences decoded together; with --target.")
@click.option("--context", type=int, default=1024, show_default=True, help="Tokens in each KV cache; with --target.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of solvers and profiles; with --target.")
@click.option("--print-ir-before", multiple=True, callback=_names, metavar="PASS", help="Print the IR before a pass.")
@click.option("--print-ir-after", multiple=True, callback=_names, metavar="PASS", help="Print the IR after a pass.")
@click.option("--print-ir-after-all", is_flag=True, help="Print the IR after every pass.")
@click.option("--print-ir-after-change", is_flag=True, help="Print the IR after every pass that changed it.")
@click.option("--mlir-timing", is_flag=True, help="Print how long each pass took.")
@click.option("--verify-each", type=bool, default=True, show_default=True, help="Verify the IR after every pass.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="File to write; default: stdout.")
def opt_command(
    file: str,
    pipeline: str,
    profile: str | None,
    target: str | None,
    overrides: tuple[str, ...],
    batch: int,
    context: int,
    seed: int,
    print_ir_before: tuple[str, ...],
    print_ir_after: tuple[str, ...],
    print_ir_after_all: bool,
    print_ir_after_change: bool,
    mlir_timing: bool,
    verify_each: bool,
    output: Path | None,
) -> None:
    """Run passes on IR text (FILE, or - for stdin), verify, and print the IR."""
    from moe_compiler.backend.folder import write_file

    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"-o '{output}': valid: the path of a file")
    text = read_text(file)
    with progress(f"opt {file}") as report:
        from moe_passes.ir.base import Context
        from moe_passes.ir.dialects import context as mlir_context
        from moe_passes.ir.dialects import parse
        from moe_passes.ir.module import text_of
        from moe_passes.ir.pipeline import Instrumentation, parse_pipeline, run_pipeline

        from moe_compiler.compilation import PassFailureError, describe, read_profile

        steps = parse_pipeline(pipeline)
        module = parse(text, title(file), mlir_context())
        if target is not None:
            describe(module, target, overrides, batch, context, seed)
        watch = Instrumentation(
            before=lambda step, module: report(step.name),
            print_before=print_ir_before,
            print_after=print_ir_after,
            print_after_all=print_ir_after_all,
            print_after_change=print_ir_after_change,
            timing=mlir_timing,
            verify_each=verify_each,
        )
        try:
            run_pipeline(module, steps, Context(lambda module: read_profile(module, profile)), watch)
        except (InputError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise PassFailureError("the pipeline", pipeline, text, profile) from error
    if output is None:
        click.echo(text_of(module), nl=False)
    else:
        write_file(output, text_of(module))
