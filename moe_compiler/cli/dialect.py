"""`moec dialect`."""

import click


@click.command(
    "dialect",
    epilog="Example: moec dialect --irdl > moe.irdl.mlir; torch-mlir-opt --irdl-file=moe.irdl.mlir plan.mlir",
)
@click.option("--irdl", "as_irdl", is_flag=True, help="Print the IRDL definition, which other MLIR tools read.")
def dialect_command(as_irdl: bool) -> None:
    """Describe the moe and sched dialects."""
    from moe_passes.dialects import Moe, Sched, context, irdl

    if as_irdl:
        click.echo(irdl(), nl=False)
        return
    context()
    for dialect in (Moe, Sched):
        click.echo(f"{dialect.DIALECT_NAMESPACE}: {_first_line(dialect)}")
        for kind, entries in (("types", dialect.types), ("operations", dialect.operations)):
            click.echo(f"  {kind}:")
            for entry in entries:
                prefix = "!" if kind == "types" else ""
                name = getattr(entry, "type_name", None) or entry.OPERATION_NAME
                click.echo(f"    {prefix}{name:24} {_first_line(entry)}")


def _first_line(item: type) -> str:
    return (item.__doc__ or "").strip().splitlines()[0]
