"""`moec dialect`."""

import click


@click.command(
    "dialect",
    epilog="Example: moec dialect --irdl > moe.irdl.mlir; torch-mlir-opt --irdl-file=moe.irdl.mlir plan.mlir",
)
@click.option("--irdl", "as_irdl", is_flag=True, help="Print the IRDL definition, which other MLIR tools read.")
def dialect_command(as_irdl: bool) -> None:
    """Describe the moe and sched dialects."""
    from moe_passes.ir.dialects import Moe, Sched, context, irdl

    if as_irdl:
        click.echo(irdl(), nl=False)
        return
    context()
    for dialect in (Moe, Sched):
        click.echo(f"{dialect.DIALECT_NAMESPACE}: {_first_line(dialect)}")
        for kind, entries in (
            ("types", dialect.types),
            ("attributes", dialect.attributes),
            ("operations", dialect.operations),
        ):
            click.echo(f"  {kind}:")
            for entry in entries:
                prefix = {"types": "!", "attributes": "#"}.get(kind, "")
                names = (getattr(entry, n, None) for n in ("OPERATION_NAME", "type_name", "attr_name"))
                name = next(name for name in names if name)
                click.echo(f"    {prefix}{name:24} {_first_line(entry)}")


def _first_line(item: type) -> str:
    return (item.__doc__ or "").strip().splitlines()[0]
