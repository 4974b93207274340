"""`moec target check`, `moec target show` and `moec target template`."""

import json

import click

from moe_compiler.cli.lists import show


@click.group("target", epilog="Example: moec target check my-box.yaml")
def target_group() -> None:
    """Check, show and begin hardware files."""


@target_group.command("check", epilog="Example: moec target check my-box.yaml")
@click.argument("file")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the hardware file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check_command(file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Validate a hardware file; errors name file, line, field, value and what would be valid."""
    from moe_compiler.hardware.loader import load_target

    loaded = load_target(file, overrides)
    figures = loaded.figures()
    unstated = [row["path"] for row in figures if row["source"] == "not stated"]
    if as_json:
        click.echo(json.dumps({"valid": True, "name": loaded.target.name, "not_stated": unstated}, indent=1))
        return
    click.echo(f"{loaded.path}: valid, {len(figures)} figures")
    for path in unstated:
        click.echo(f"note: {path} states no source; add it under 'source' or 'assumed' of its section", err=True)


@target_group.command("show", epilog="Example: moec target show elmoe3d-8gb --set memories.hb.banks=16")
@click.argument("target")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the hardware file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show_command(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show every figure of a hardware file: path, unit, value and source."""
    from moe_compiler.hardware.loader import load_target

    show(load_target(target, overrides).figures(), as_json)


@target_group.command("template", epilog="Example: moec target template gpu-host > my-box.yaml")
@click.argument("kind")
def template_command(kind: str) -> None:
    """Print a hardware file to start from, with comments: gpu-host, unified, hb or cpu-ssd."""
    from moe_compiler.hardware.loader import template

    click.echo(template(kind), nl=False)
