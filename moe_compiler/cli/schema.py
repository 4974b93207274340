"""`moec schema`."""

import json
from typing import Any

import click

DOCUMENTS = ("plan", "cost", "compile", "profile", "target")


@click.command("schema", epilog="Example: moec schema cost > cost.schema.json")
@click.argument("document", type=click.Choice(DOCUMENTS))
def schema_command(document: str) -> None:
    """Print the JSON Schema of a document: plan.json, cost.json, compile.json, a profile or a hardware file."""
    from pydantic import TypeAdapter

    click.echo(json.dumps(TypeAdapter(_model(document)).json_schema(by_alias=True), indent=1))


def _model(document: str) -> Any:
    if document == "plan":
        from moe_compiler.documents.plan import PlanDocument

        return PlanDocument
    if document == "cost":
        from moe_compiler.documents.cost import CostDocument

        return CostDocument
    if document == "compile":
        from moe_compiler.documents.record import CompileDocument

        return CompileDocument
    if document == "profile":
        from moe_compiler.documents.profile import ProfileDocument

        return ProfileDocument
    from moe_compiler.hardware.loader import Document

    return Document
